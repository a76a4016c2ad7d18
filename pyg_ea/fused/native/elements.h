/* One block of elements through the potential's network and back, with the names and formulas of
 * ../../potentials/closed_form.py and
 * ../torch/elements.py. What lies between two products stays in the thread's cache.
 *
 * Included once for each REAL, after tanh_norm.h. wide = 2H, tail = H + 32, all = wide + tail.
 */

/* BLAS's matrix product, which counts by columns: sgemm_ or dgemm_. */
typedef void NAME(Gemm)(const char *, const char *, const int *, const int *, const int *,
                        const REAL *, const REAL *, const int *, const REAL *, const int *,
                        const REAL *, REAL *, const int *);

typedef struct {
    NAME(Gemm) *gemm;
    int64_t hidden;
    const REAL *b, *w3, *gamma1, *beta1, *gamma2, *beta2; /* [tail, wide], [32, H], of the norms */
} NAME(Network);

/* Activations of some elements saved for backward. */
typedef struct {
    REAL *u2, *d23, *to_t1; /* [n, H], [n, tail], [n, wide] */
} NAME(Activations);

/* Gradients of the network's weights, each added to. */
typedef struct {
    REAL *b, *w3, *gamma1, *beta1, *gamma2, *beta2;
} NAME(NetworkGradient);

/* out = a b + beta out, where a is rows x inner, or its transpose is stored; so with b. Rows of what
 * is stored are a_stride, b_stride and out_stride apart. */
static void NAME(product)(NAME(Gemm) *gemm, int64_t rows, int64_t columns, int64_t inner,
                          const REAL *a, char a_stored, int64_t a_stride, const REAL *b,
                          char b_stored, int64_t b_stride, REAL beta, REAL *out, int64_t out_stride)
{
    const int m = (int)columns, n = (int)rows, k = (int)inner;
    const int lda = (int)b_stride, ldb = (int)a_stride, ldc = (int)out_stride;
    const REAL one = 1;
    gemm(&b_stored, &a_stored, &m, &n, &k, &one, b, &lda, a, &ldb, &beta, out, &ldc);
}

/* a[index] + b. */
TARGETS
static void NAME(gather_add)(int64_t rows, int64_t d, const REAL *a, int64_t a_stride,
                             const int64_t *index, const REAL *b, int64_t b_stride, REAL *outs)
{
    for (int64_t i = 0; i < rows; i++) {
        const REAL *restrict one = a + index[i] * a_stride, *restrict other = b + i * b_stride;
        REAL *restrict out = outs + i * d;
        SIMD()
        for (int64_t j = 0; j < d; j++) out[j] = one[j] + other[j];
    }
}

/* factor * from, or from[index]. */
TARGETS
static void NAME(scale)(int64_t rows, int64_t d, REAL factor, const REAL *from, int64_t stride,
                        const int64_t *index, REAL *outs, int64_t out_stride)
{
    for (int64_t i = 0; i < rows; i++) {
        const REAL *restrict one = from + (index ? index[i] : i) * stride;
        REAL *restrict out = outs + i * out_stride;
        SIMD()
        for (int64_t j = 0; j < d; j++) out[j] = factor * one[j];
    }
}

/* Adds each row to that of its segment or, without an index, to the row of the same number. */
TARGETS
static void NAME(add_rows)(int64_t rows, int64_t d, const REAL *from, int64_t stride,
                           const int64_t *index, REAL *sums, int64_t sum_stride)
{
    for (int64_t i = 0; i < rows; i++) {
        const REAL *restrict one = from + i * stride;
        REAL *restrict sum = sums + (index ? index[i] : i) * sum_stride;
        SIMD()
        for (int64_t j = 0; j < d; j++) sum[j] += one[j];
    }
}

/* Forward: adds delta of each element to its segment's total [segments, all]. from_y = A_y y of the
 * segments, an element's row is from_y[index]. Fills saved. memory: block_forward_memory(hidden)
 * values a row. */
static int64_t NAME(block_forward_memory)(int64_t hidden) { return 9 * hidden + OUTPUTS + 8; }

static void NAME(block_forward)(const NAME(Network) *net, int64_t rows, const REAL *from_y,
                                const REAL *fixed, const int64_t *index, REAL *memory,
                                NAME(Activations) saved, REAL *total)
{
    const int64_t hidden = net->hidden, wide = 2 * hidden, tail = hidden + OUTPUTS, all = wide + tail;
    REAL *u1 = memory, *t1 = u1 + rows * wide, *u23 = t1 + rows * wide, *t2 = u23 + rows * tail;
    REAL *to_t2 = t2 + rows * hidden, *d1 = to_t2 + rows * hidden, *of_rows = d1 + rows * wide;
    REAL *d3 = saved.d23 + hidden;

    NAME(gather_add)(rows, wide, from_y, all, index, fixed, all, u1);
    const NAME(Stage) stage1 = {rows, wide, u1, wide, net->gamma1, net->beta1, t1, of_rows};
    NAME(at)(&stage1);
    NAME(gather_add)(rows, tail, from_y + wide, all, index, fixed + wide, all, u23);
    NAME(product)(net->gemm, rows, tail, wide, t1, 'N', wide, net->b, 'T', wide, 1, u23, tail);
    NAME(scale)(rows, hidden, 1, u23, tail, NULL, saved.u2, hidden);
    const NAME(Stage) stage2 = {rows, hidden, saved.u2, hidden, net->gamma2, net->beta2, t2,
                                of_rows + 4 * rows};
    NAME(at)(&stage2);
    NAME(product)(net->gemm, rows, OUTPUTS, hidden, t2, 'N', hidden, net->w3, 'T', hidden, 1,
                  u23 + hidden, tail);
    NAME(scale)(rows, OUTPUTS, (REAL)2 / OUTPUTS, u23 + hidden, tail, NULL, d3, tail);
    NAME(product)(net->gemm, rows, hidden, OUTPUTS, d3, 'N', tail, net->w3, 'N', hidden, 0, to_t2,
                  hidden);
    NAME(pull)(&stage2, to_t2, saved.d23, tail);
    NAME(product)(net->gemm, rows, wide, tail, saved.d23, 'N', tail, net->b, 'N', wide, 0,
                  saved.to_t1, wide);
    NAME(pull)(&stage1, saved.to_t1, d1, wide);
    NAME(add_rows)(rows, wide, d1, wide, index, total, all);
    NAME(add_rows)(rows, tail, saved.d23, tail, index, total + wide, all);
}

/* Backward for the cotangent dy of the segments' gradients, from_dy = A_y dy: adds eta of each element
 * to d_fixed and to its segment's total, and the gradients of the weights to d_net. memory:
 * block_backward_memory(hidden) values a row, and 8 H. */
static int64_t NAME(block_backward_memory)(int64_t hidden) { return 16 * hidden + 2 * OUTPUTS + 8; }

static void NAME(block_backward)(const NAME(Network) *net, int64_t rows, const REAL *from_y1,
                                 const REAL *from_dy, const REAL *fixed, const int64_t *index,
                                 NAME(Activations) saved, REAL *memory, REAL *d_fixed,
                                 REAL *total, NAME(NetworkGradient) d_net)
{
    const int64_t hidden = net->hidden, wide = 2 * hidden, tail = hidden + OUTPUTS, all = wide + tail;
    REAL *u1 = memory, *t1 = u1 + rows * wide, *dt1 = t1 + rows * wide, *to_t1 = dt1 + rows * wide;
    REAL *t2 = to_t1 + rows * wide, *dt2 = t2 + rows * hidden, *to_t2 = dt2 + rows * hidden;
    REAL *to_dt2 = to_t2 + rows * hidden, *du23 = to_dt2 + rows * hidden, *h = du23 + rows * tail;
    REAL *of_rows = h + rows * all, *of_columns = of_rows + 8 * rows;
    REAL *h23 = h + wide, *h3 = h23 + hidden;
    const REAL *d23 = saved.d23, *d3 = d23 + hidden;

    NAME(gather_add)(rows, wide, from_y1, wide, index, fixed, all, u1);
    const NAME(Stage) stage1 = {rows, wide, u1, wide, net->gamma1, net->beta1, t1, of_rows};
    NAME(at)(&stage1);
    const NAME(Stage) stage2 = {rows, hidden, saved.u2, hidden, net->gamma2, net->beta2, t2,
                                of_rows + 4 * rows};
    NAME(at)(&stage2);

    NAME(push)(&stage1, from_dy, all, index, dt1);
    NAME(scale)(rows, tail, 1, from_dy + wide, all, index, du23, tail);
    NAME(product)(net->gemm, rows, tail, wide, dt1, 'N', wide, net->b, 'T', wide, 1, du23, tail);
    NAME(push)(&stage2, du23, tail, NULL, dt2);
    NAME(product)(net->gemm, rows, OUTPUTS, hidden, dt2, 'N', hidden, net->w3, 'T', hidden, 1,
                  du23 + hidden, tail);

    NAME(scale)(rows, OUTPUTS, (REAL)2 / OUTPUTS, du23 + hidden, tail, NULL, h3, all);
    NAME(product)(net->gemm, rows, hidden, OUTPUTS, h3, 'N', all, net->w3, 'N', hidden, 0, to_t2,
                  hidden);
    NAME(product)(net->gemm, rows, hidden, OUTPUTS, d3, 'N', tail, net->w3, 'N', hidden, 0, to_dt2,
                  hidden);
    NAME(pull_both)(&stage2, du23, tail, NULL, to_t2, to_dt2, h23, all, d_net.gamma2, d_net.beta2,
                    of_columns);
    NAME(product)(net->gemm, rows, wide, tail, h23, 'N', all, net->b, 'N', wide, 0, to_t1, wide);
    NAME(pull_both)(&stage1, from_dy, all, index, to_t1, saved.to_t1, h, all, d_net.gamma1,
                    d_net.beta1, of_columns);
    NAME(product)(net->gemm, tail, wide, rows, h23, 'T', all, t1, 'N', wide, 1, d_net.b, wide);
    NAME(product)(net->gemm, tail, wide, rows, d23, 'T', tail, dt1, 'N', wide, 1, d_net.b, wide);
    NAME(product)(net->gemm, OUTPUTS, hidden, rows, h3, 'T', all, t2, 'N', hidden, 1, d_net.w3,
                  hidden);
    NAME(product)(net->gemm, OUTPUTS, hidden, rows, d3, 'T', tail, dt2, 'N', hidden, 1, d_net.w3,
                  hidden);
    NAME(add_rows)(rows, all, h, all, NULL, d_fixed, all);
    NAME(add_rows)(rows, all, h, all, index, total, all);
}
