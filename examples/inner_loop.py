"""
Inside the inner loop
=====================
"""

print("hi")
