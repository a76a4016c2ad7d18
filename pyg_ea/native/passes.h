/* The two passes over the elements, forth() and back(), with the names and formulas of
 * ../potentials/resnet_passes.py. Threads share the elements; each takes a block through the whole
 * network, so that what lies between two products stays in its cache. Sums over segments follow for a
 * chunk of blocks at a time, threads sharing its columns, so that no two add to one place and the order
 * is always the same.
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

/* out = a b + beta out, where a is rows x inner, or its transpose is stored; so with b. Rows of what
 * is stored are a_stride, b_stride and out_stride apart. */
static void NAME(product)(const NAME(Network) *net, int64_t rows, int64_t columns, int64_t inner,
                          const REAL *a, char a_stored, int64_t a_stride, const REAL *b,
                          char b_stored, int64_t b_stride, REAL beta, REAL *out, int64_t out_stride)
{
    const int m = (int)columns, n = (int)rows, k = (int)inner;
    const int lda = (int)b_stride, ldb = (int)a_stride, ldc = (int)out_stride;
    const REAL one = 1;
    net->gemm(&b_stored, &a_stored, &m, &n, &k, &one, b, &lda, a, &ldb, &beta, out, &ldc);
}

/* from[index] + to_add, rows of which are to_add_stride apart. */
TARGETS
static void NAME(gather_add)(int64_t rows, int64_t d, const REAL *from, const int64_t *index,
                             const REAL *to_add, int64_t to_add_stride, REAL *outs)
{
    for (int64_t i = 0; i < rows; i++) {
        const REAL *restrict one = from + index[i] * d, *restrict other = to_add + i * to_add_stride;
        REAL *restrict out = outs + i * d;
        SIMD()
        for (int64_t j = 0; j < d; j++) out[j] = one[j] + other[j];
    }
}

/* factor * from, both with rows apart. */
TARGETS
static void NAME(scale)(int64_t rows, int64_t d, REAL factor, const REAL *from, int64_t stride,
                        REAL *outs, int64_t out_stride)
{
    for (int64_t i = 0; i < rows; i++) {
        const REAL *restrict one = from + i * stride;
        REAL *restrict out = outs + i * out_stride;
        SIMD()
        for (int64_t j = 0; j < d; j++) out[j] = factor * one[j];
    }
}

/* Adds columns begin to end of each row to that of its segment, or, without an index, to its like. */
TARGETS
static void NAME(add_rows)(int64_t rows, int64_t begin, int64_t end, const REAL *from, int64_t stride,
                           const int64_t *index, REAL *sums, int64_t sum_stride)
{
    for (int64_t i = 0; i < rows; i++) {
        const REAL *restrict one = from + i * stride;
        REAL *restrict sum = sums + (index ? index[i] : i) * sum_stride;
        SIMD()
        for (int64_t j = begin; j < end; j++) sum[j] += one[j];
    }
}

/* One block of the pass forth: fills u2 (if not NULL), d23 and d1; to_t1 may be kept or not. */
static void NAME(block_forth)(const NAME(Network) *net, int64_t rows, const REAL *from_y1,
                              const REAL *from_y23, const REAL *fixed, const int64_t *index,
                              REAL *memory, REAL *u2, REAL *d23, REAL *to_t1, REAL *d1)
{
    const int64_t hidden = net->hidden, wide = 2 * hidden, tail = hidden + OUTPUTS;
    REAL *u1 = memory, *t1 = u1 + rows * wide, *u23 = t1 + rows * wide, *t2 = u23 + rows * tail;
    REAL *to_t2 = t2 + rows * hidden, *of_rows = to_t2 + rows * hidden;
    if (to_t1 == NULL) to_t1 = of_rows + 8 * rows;
    REAL *d3 = d23 + hidden;

    NAME(gather_add)(rows, wide, from_y1, index, fixed, wide + tail, u1);
    const NAME(Stage) stage1 = {rows, wide, u1, wide, net->gamma1, net->beta1, t1, of_rows};
    NAME(at)(&stage1);
    NAME(gather_add)(rows, tail, from_y23, index, fixed + wide, wide + tail, u23);
    NAME(product)(net, rows, tail, wide, t1, 'N', wide, net->b, 'T', wide, 1, u23, tail);
    if (u2 != NULL) NAME(scale)(rows, hidden, 1, u23, tail, u2, hidden);
    const NAME(Stage) stage2 = {rows, hidden, u23, tail, net->gamma2, net->beta2, t2,
                                of_rows + 4 * rows};
    NAME(at)(&stage2);
    NAME(product)(net, rows, OUTPUTS, hidden, t2, 'N', hidden, net->w3, 'T', hidden, 1,
                  u23 + hidden, tail);
    NAME(scale)(rows, OUTPUTS, (REAL)2 / OUTPUTS, u23 + hidden, tail, d3, tail);
    NAME(product)(net, rows, hidden, OUTPUTS, d3, 'N', tail, net->w3, 'N', hidden, 0, to_t2, hidden);
    NAME(pull)(&stage2, to_t2, d23, tail);
    NAME(product)(net, rows, wide, tail, d23, 'N', tail, net->b, 'N', wide, 0, to_t1, wide);
    NAME(pull)(&stage1, to_t1, d1, wide);
}

/* One block of the pass back: fills h and adds to the derivatives d_b, d_w3 and those of the norms. */
static void NAME(block_back)(const NAME(Network) *net, int64_t rows, const REAL *from_y1,
                             const REAL *from_dy1, const REAL *from_dy23, const REAL *fixed,
                             const int64_t *index, const REAL *u2, const REAL *d23,
                             const REAL *kept_to_t1, REAL *memory, REAL *h, REAL *derivatives)
{
    const int64_t hidden = net->hidden, wide = 2 * hidden, tail = hidden + OUTPUTS, all = wide + tail;
    REAL *u1 = memory, *t1 = u1 + rows * wide, *dt1 = t1 + rows * wide, *to_t1 = dt1 + rows * wide;
    REAL *t2 = to_t1 + rows * wide, *dt2 = t2 + rows * hidden, *to_t2 = dt2 + rows * hidden;
    REAL *to_dt2 = to_t2 + rows * hidden, *du23 = to_dt2 + rows * hidden;
    REAL *of_rows = du23 + rows * tail;
    REAL *d_b = derivatives, *d_w3 = d_b + tail * wide, *d_norm1 = d_w3 + OUTPUTS * hidden;
    REAL *d_norm2 = d_norm1 + 2 * wide, *scratch = d_norm2 + 2 * hidden;
    REAL *h23 = h + wide, *h3 = h23 + hidden;
    const REAL *d3 = d23 + hidden;

    NAME(gather_add)(rows, wide, from_y1, index, fixed, all, u1);
    const NAME(Stage) stage1 = {rows, wide, u1, wide, net->gamma1, net->beta1, t1, of_rows};
    NAME(at)(&stage1);
    const NAME(Stage) stage2 = {rows, hidden, u2, hidden, net->gamma2, net->beta2, t2,
                                of_rows + 4 * rows};
    NAME(at)(&stage2);

    NAME(push)(&stage1, from_dy1, wide, index, dt1);
    for (int64_t i = 0; i < rows; i++)
        NAME(scale)(1, tail, 1, from_dy23 + index[i] * tail, tail, du23 + i * tail, tail);
    NAME(product)(net, rows, tail, wide, dt1, 'N', wide, net->b, 'T', wide, 1, du23, tail);
    NAME(push)(&stage2, du23, tail, NULL, dt2);
    NAME(product)(net, rows, OUTPUTS, hidden, dt2, 'N', hidden, net->w3, 'T', hidden, 1,
                  du23 + hidden, tail);

    NAME(scale)(rows, OUTPUTS, (REAL)2 / OUTPUTS, du23 + hidden, tail, h3, all);
    NAME(product)(net, rows, hidden, OUTPUTS, h3, 'N', all, net->w3, 'N', hidden, 0, to_t2, hidden);
    NAME(product)(net, rows, hidden, OUTPUTS, d3, 'N', tail, net->w3, 'N', hidden, 0, to_dt2, hidden);
    NAME(pull_both)(&stage2, du23, tail, NULL, to_t2, to_dt2, h23, all, d_norm2, d_norm2 + hidden,
                    scratch);
    NAME(product)(net, rows, wide, tail, h23, 'N', all, net->b, 'N', wide, 0, to_t1, wide);
    NAME(pull_both)(&stage1, from_dy1, wide, index, to_t1, kept_to_t1, h, all, d_norm1,
                    d_norm1 + wide, scratch);
    NAME(product)(net, tail, wide, rows, h23, 'T', all, t1, 'N', wide, 1, d_b, wide);
    NAME(product)(net, tail, wide, rows, d23, 'T', tail, dt1, 'N', wide, 1, d_b, wide);
    NAME(product)(net, OUTPUTS, hidden, rows, h3, 'T', all, t2, 'N', hidden, 1, d_w3, hidden);
    NAME(product)(net, OUTPUTS, hidden, rows, d3, 'T', tail, dt2, 'N', hidden, 1, d_w3, hidden);
}

/* Adds delta of all elements to totals [S, all]. What is kept, u2, d23 and to_t1, is of all elements,
 * or all of it NULL. memory: threads times block (9H + 32 + 8), and chunk all. */
void NAME(forth)(int64_t threads, int64_t elements, int64_t block, int64_t chunk, NAME(Gemm) *gemm,
                 int64_t hidden, const REAL *b, const REAL *w3, const REAL *gamma1, const REAL *beta1,
                 const REAL *gamma2, const REAL *beta2, const REAL *from_y1, const REAL *from_y23,
                 const REAL *fixed, const int64_t *index, REAL *u2, REAL *d23, REAL *to_t1,
                 REAL *totals, REAL *memory)
{
    const NAME(Network) net = {gemm, hidden, b, w3, gamma1, beta1, gamma2, beta2};
    const int64_t wide = 2 * hidden, tail = hidden + OUTPUTS, all = wide + tail;
    const int64_t own = block * (9 * hidden + OUTPUTS + 8);
    REAL *chunk_d1 = memory + threads * own, *chunk_d23 = chunk_d1 + chunk * wide;
    PARALLEL(threads)
    for (int64_t start = 0; start < elements; start += chunk) {
        const int64_t n = elements - start < chunk ? elements - start : chunk;
        REAL *here_d23 = d23 == NULL ? chunk_d23 : d23 + start * tail;
        SHARED
        for (int64_t k = 0; k < threads; k++)
            for (int64_t i = PART(n, k); i < PART(n, k + 1); i += block) {
                const int64_t left = PART(n, k + 1) - i, rows = left < block ? left : block;
                const int64_t row = start + i;
                NAME(block_forth)(&net, rows, from_y1, from_y23, fixed + row * all, index + row,
                                  memory + k * own, u2 == NULL ? NULL : u2 + row * hidden,
                                  here_d23 + i * tail, to_t1 == NULL ? NULL : to_t1 + row * wide,
                                  chunk_d1 + i * wide);
            }
        SHARED
        for (int64_t k = 0; k < threads; k++) {
            NAME(add_rows)(n, PART(wide, k), PART(wide, k + 1), chunk_d1, wide, index + start, totals,
                           all);
            NAME(add_rows)(n, PART(tail, k), PART(tail, k + 1), here_d23, tail, index + start,
                           totals + wide, all);
        }
    }
}

/* Adds eta of all elements to d_fixed [N, all] and its sums over segments to h_totals [S, all].
 * derivatives: of each thread those of b, w3, gamma1, beta1, gamma2, beta2, zero at first, and 8 H
 * values to work with. memory: threads times block (13H + 32 + 8), and chunk all. */
void NAME(back)(int64_t threads, int64_t elements, int64_t block, int64_t chunk, NAME(Gemm) *gemm,
                int64_t hidden, const REAL *b, const REAL *w3, const REAL *gamma1, const REAL *beta1,
                const REAL *gamma2, const REAL *beta2, const REAL *from_y1, const REAL *from_dy1,
                const REAL *from_dy23, const REAL *fixed, const int64_t *index, const REAL *u2,
                const REAL *d23, const REAL *to_t1, REAL *d_fixed, REAL *h_totals, REAL *derivatives,
                REAL *memory)
{
    const NAME(Network) net = {gemm, hidden, b, w3, gamma1, beta1, gamma2, beta2};
    const int64_t wide = 2 * hidden, tail = hidden + OUTPUTS, all = wide + tail;
    const int64_t own = block * (13 * hidden + OUTPUTS + 8);
    const int64_t size = tail * wide + OUTPUTS * hidden + 14 * hidden;
    REAL *chunk_h = memory + threads * own;
    PARALLEL(threads)
    for (int64_t start = 0; start < elements; start += chunk) {
        const int64_t n = elements - start < chunk ? elements - start : chunk;
        SHARED
        for (int64_t k = 0; k < threads; k++)
            for (int64_t i = PART(n, k); i < PART(n, k + 1); i += block) {
                const int64_t left = PART(n, k + 1) - i, rows = left < block ? left : block;
                const int64_t row = start + i;
                REAL *h = chunk_h + i * all;
                NAME(block_back)(&net, rows, from_y1, from_dy1, from_dy23, fixed + row * all,
                                 index + row, u2 + row * hidden, d23 + row * tail, to_t1 + row * wide,
                                 memory + k * own, h, derivatives + k * size);
                NAME(add_rows)(rows, 0, all, h, all, NULL, d_fixed + row * all, all);
            }
        SHARED
        for (int64_t k = 0; k < threads; k++)
            NAME(add_rows)(n, PART(all, k), PART(all, k + 1), chunk_h, all, index + start, h_totals,
                           all);
    }
}
