/* What is in C, for CPUs: passes over the elements, steps of the solver. Called by __init__.py through
 * ctypes, without the interpreter's lock. Plain C. Python's headers, where they are, make of it a module
 * that can be imported like any other, which tools do that walk through a package; it holds nothing. */

#if defined __has_include
#if __has_include(<Python.h>)
#include <Python.h>

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "kernels", .m_size = -1};

PyMODINIT_FUNC PyInit_kernels(void) { return PyModule_Create(&definition); }
#endif
#endif

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define VERSION 4 /* raised with any change here or in __init__.py that the other must know of */
#define EPS 1e-5  /* nn.LayerNorm's default */
#define GROUP 64  /* rows summed at a time */
#define OUTPUTS 32 /* width of the last layer */

#define PRAGMA(text) _Pragma(#text)
#ifdef _OPENMP
#define SIMD(clauses) PRAGMA(omp simd clauses)
#define PARALLEL(threads) PRAGMA(omp parallel num_threads(threads))
#define SHARED PRAGMA(omp for schedule(static, 1)) /* and all wait for the last */
#else
#define SIMD(clauses)
#define PARALLEL(threads)
#define SHARED
#endif
#define PART(n, k) ((n) * (k) / threads) /* where the k-th of as many parts as threads begins */

/* One copy of a function for each kind of processor, chosen when the library is loaded. */
#if !defined(__x86_64__) || !defined(__GLIBC__) || !defined(__GNUC__) || defined(__clang__)
#define TARGETS
#elif __GNUC__ >= 12
#define TARGETS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TARGETS __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

/* 2^(2 a log2(e)) = exp(2 a) with the error that float has anyway; loops over it vectorise. */
static inline float exp_twice_float32(float a)
{
    const float log2_e = 1.44269504f, round = 12582912.0f; /* 1.5 * 2^23: drops what follows the point */
    float z = 2 * log2_e * a;
    z = z > 126 ? 126 : z;
    z = z < -126 ? -126 : z;
    const float whole = (z + round) - round, f = z - whole; /* |f| <= 1/2 */
    float p = 1.535336188e-4f;
    p = p * f + 1.339887440e-3f;
    p = p * f + 9.618437357e-3f;
    p = p * f + 5.550332548e-2f;
    p = p * f + 2.402264791e-1f;
    p = p * f + 6.931472028e-1f;
    p = p * f + 1.0f;
    union { int32_t bits; float value; } power = {((int32_t)whole + 127) * (1 << 23)};
    return p * power.value;
}

static inline double exp_twice_float64(double a) { return exp(2 * a); }

int version(void) { return VERSION; }

#define REAL float
#define NAME(function) function##_float32
#define SQRT sqrtf
#include "tanh_norm.h"
#include "passes.h"
#include "step.h"
#undef REAL
#undef NAME
#undef SQRT

#define REAL double
#define NAME(function) function##_float64
#define SQRT sqrt
#include "tanh_norm.h"
#include "passes.h"
#include "step.h"
