/* Optional CPU code: a whole solve of the fused layer in one call, and its derivative in another. Called
 * by __init__.py through ctypes, without the interpreter's lock. Plain C: it knows neither Python nor
 * torch, so one library serves all their versions. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define VERSION 8 /* raised with any change here or in __init__.py that the other must know of */
#define EPS 1e-5  /* nn.LayerNorm's default */
#define GROUP 64  /* rows summed at a time */
#define OUTPUTS 32 /* width of the last layer */
#define BLOCK 128  /* elements that go through the network at a time */

#define PRAGMA(text) _Pragma(#text)
#ifdef _OPENMP
#define SIMD(clauses) PRAGMA(omp simd clauses)
#else
#define SIMD(clauses)
#endif

/* Calls work(&job, number of the thread) in job.threads threads. BLAS runs in the calling thread: its
 * own threads gain little on small products, and wait for each other where the machine is busy. */
#define RUN(work, job)                                                                                  \
    do {                                                                                                \
        if (job.threads == 1) {                                                                         \
            const int before = is_small(job.p) ? job.p->blas_threads(1) : 0;                            \
            work(&job, 0);                                                                              \
            if (is_small(job.p)) job.p->blas_threads(before);                                           \
        } else if (job.threads > 1) {                                                                   \
            PARALLEL(job.threads) work(&job, thread_number());                                          \
        }                                                                                               \
    } while (0)
#ifdef _OPENMP
#define PARALLEL(threads) PRAGMA(omp parallel num_threads(threads))
#else
#define PARALLEL(threads)
#endif

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
    union { uint32_t bits; float value; } power = {(uint32_t)((int32_t)whole + 127) << 23};
    return p * power.value;
}

static inline double exp_twice_float64(double a) { return exp(2 * a); }

/* A solve: mirrored in __init__.py, like the structures after it. REAL * where it says void *. */
typedef struct {
    int64_t threads, segments, elements, channels, hidden, steps;
    int64_t saved_steps; /* how many of the last steps backward goes through */
    int64_t interval;    /* 0: forward saves these steps; else backward computes so many at a time again */
    double gtol, clip;   /* clip 0: none */
    double lr, momentum, prior_weight;
    const int64_t *ptr; /* [S + 1]: elements ptr[s] to ptr[s + 1] are those of segment s */
    void *gemm;
    int (*blas_threads)(int); /* sets BLAS's threads for the calling thread, returns those before; or NULL */
    const void *fixed, *scale, *start, *a_y, *b, *w3, *gamma1, *beta1, *gamma2, *beta2;
} Problem;

typedef struct {
    void *y, *velocity;                        /* [S, D] */
    void *mean_square, *path, *first_max, *max; /* [S], of the gradient */
    int64_t *steps;                            /* [S] */
    unsigned char *converged, *diverged;       /* [S] */
} Result;

typedef struct {
    const void *y, *velocity, *mean_square, *path; /* of those results */
} Cotangent;

typedef struct {
    void *start, *fixed;
    void *weights;   /* a_y, b, w3, gamma1, beta1, gamma2, beta2 one after the other */
    double *scalars; /* lr, momentum, prior_weight */
} Gradient;

enum { DONE, NO_MEMORY, BAD_SIZES, BAD_PTR };

/* Consecutive segments that one thread takes through the solve together. */
typedef struct {
    int64_t first_segment, segments, first_element, elements;
} Tile;

typedef struct {
    int64_t tiles, most_segments, most_elements;
    int64_t stack;   /* steps whose parts of the gradient of a_y are added up together */
    int64_t *bounds; /* [tiles + 1]: first segment of each */
} Tiling;

/* Whether the products of a single set gain little from BLAS's own threads. */
static int is_small(const Problem *p)
{
    return p->blas_threads != NULL && p->elements <= 512 && p->hidden < 192;
}

static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

static int64_t intervals(const Problem *p)
{
    return p->interval ? (p->steps + p->interval - 1) / p->interval : 0;
}

static Tile tile_at(const Problem *p, const Tiling *tiling, int64_t k)
{
    const int64_t *ptr = p->ptr, first = tiling->bounds[k], end = tiling->bounds[k + 1];
    const Tile tile = {first, end - first, ptr[first], ptr[end] - ptr[first]};
    return tile;
}

/* The segment of each element of a tile, counted from the tile's first. */
static void fill_index(const Problem *p, Tile tile, int64_t *index)
{
    const int64_t *ptr = p->ptr + tile.first_segment;
    for (int64_t s = 0; s < tile.segments; s++)
        for (int64_t i = ptr[s]; i < ptr[s + 1]; i++) index[i - ptr[0]] = s;
}

static void *allocate(size_t bytes)
{
    return aligned_alloc(64, (bytes / 64 + 1) * 64);
}

static int thread_number(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static int64_t take_next(int64_t *next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }

static int in_range(int64_t value, int64_t low, int64_t high) { return value >= low && value <= high; }

static int sizes_fit(const Problem *p)
{
    const int64_t few = 1 << 20, many = (int64_t)1 << 40; /* BLAS counts in int */
    return in_range(p->threads, 1, few) && in_range(p->channels, 1, few) &&
           in_range(p->hidden, 1, few) && in_range(p->steps, 1, few) &&
           in_range(p->segments, 0, many) && in_range(p->elements, 0, many) &&
           in_range(p->saved_steps, 0, p->steps) && in_range(p->interval, 0, p->steps);
}

static int ptr_fits(const Problem *p)
{
    for (int64_t s = 0; s < p->segments; s++)
        if (p->ptr[s] > p->ptr[s + 1]) return 0;
    return p->ptr[0] == 0 && p->ptr[p->segments] == p->elements;
}

/* Divides the segments into tiles of a cacheful of elements, small enough for several threads. */
static int make_tiling(const Problem *p, Tiling *tiling)
{
    const int64_t share = p->elements / 32;
    const int64_t limit = share < 128 ? 128 : share > 512 ? 512 : share;
    memset(tiling, 0, sizeof *tiling);
    if (!sizes_fit(p)) return BAD_SIZES;
    if (!ptr_fits(p)) return BAD_PTR;
    const int64_t *ptr = p->ptr;
    int64_t *bounds = tiling->bounds = malloc((p->segments + 1) * sizeof(int64_t));
    if (bounds == NULL) return NO_MEMORY;
    bounds[0] = 0;
    for (int64_t first = 0, end; first < p->segments; first = end) {
        for (end = first + 1; end < p->segments; end++)
            if (ptr[end + 1] - ptr[first] > limit || end - first == limit) break;
        const int64_t segments = end - first, elements = ptr[end] - ptr[first];
        bounds[++tiling->tiles] = end;
        if (segments > tiling->most_segments) tiling->most_segments = segments;
        if (elements > tiling->most_elements) tiling->most_elements = elements;
    }
    const int64_t fit = tiling->most_segments ? 256 / tiling->most_segments : 1;
    tiling->stack = fit < 1 ? 1 : fit > p->steps ? p->steps : fit;
    return DONE;
}

int version(void) { return VERSION; }

#define REAL float
#define NAME(function) function##_float32
#define SQRT sqrtf
#include "tanh_norm.h"
#include "elements.h"
#include "solve.h"
#undef REAL
#undef NAME
#undef SQRT

#define REAL double
#define NAME(function) function##_float64
#define SQRT sqrt
#include "tanh_norm.h"
#include "elements.h"
#include "solve.h"
