/* tanh(LayerNorm(u)) row by row, its transposed derivative, and the derivatives of both: the formulas
 * of FusedTanhNorm in ../tanh_norm.py, each in one pass over memory. A row stays in the first cache
 * between the loops over it.
 *
 * Included once for each REAL, with NAME(f) the name of f for it. All matrices are n x d with
 * contiguous rows; where a stride is given, rows are that far apart, otherwise d. Where an index is
 * given that is not NULL, row i of a matrix is that of index[i].
 */

/* from[index] + to_add. */
TARGETS
static void NAME(gather_add_rows)(int64_t begin, int64_t end, int64_t d, const REAL *restrict from,
                                  const int64_t *restrict index, const REAL *restrict to_add,
                                  int64_t stride, REAL *restrict outs)
{
    for (int64_t i = begin; i < end; i++) {
        const REAL *restrict one = from + index[i] * d, *restrict other = to_add + i * stride;
        REAL *restrict out = outs + i * d;
        SIMD()
        for (int64_t j = 0; j < d; j++) out[j] = one[j] + other[j];
    }
}

/* At u: the mean and inverse deviation of each row, and t = tanh(gamma n + beta). */
TARGETS
static void NAME(at_rows)(int64_t begin, int64_t end, int64_t d, const REAL *restrict us,
                          int64_t stride, const REAL *restrict gamma, const REAL *restrict beta,
                          REAL *restrict ts, REAL *restrict means, REAL *restrict inv_stds)
{
    for (int64_t i = begin; i < end; i++) {
        const REAL *restrict u = us + i * stride;
        REAL *restrict t = ts + i * d;
        REAL sum = 0, squares = 0;
        SIMD(reduction(+ : sum))
        for (int64_t j = 0; j < d; j++) sum += u[j];
        const REAL mean = sum / d;
        SIMD(reduction(+ : squares))
        for (int64_t j = 0; j < d; j++) squares += (u[j] - mean) * (u[j] - mean);
        const REAL inv_std = 1 / SQRT(squares / d + (REAL)EPS);
        SIMD()
        for (int64_t j = 0; j < d; j++) { /* tanh(a) = 1 - 2 / (exp(2 a) + 1) */
            const REAL a = gamma[j] * ((u[j] - mean) * inv_std) + beta[j];
            t[j] = 1 - 2 / (NAME(exp_twice)(a) + 1);
        }
        means[i] = mean;
        inv_stds[i] = inv_std;
    }
}

/* J(gamma (1 - t^2) g), the pullback of g. */
TARGETS
static void NAME(pull_rows)(int64_t begin, int64_t end, int64_t d, const REAL *restrict us,
                            int64_t stride, const REAL *restrict gamma, const REAL *restrict ts,
                            const REAL *restrict means, const REAL *restrict inv_stds,
                            const REAL *restrict gs, REAL *restrict outs, int64_t out_stride)
{
    for (int64_t i = begin; i < end; i++) {
        const REAL *restrict u = us + i * stride, *restrict t = ts + i * d, *restrict g = gs + i * d;
        REAL *restrict out = outs + i * out_stride;
        const REAL mean = means[i], inv_std = inv_stds[i];
        REAL w_sum = 0, wn_sum = 0;
        SIMD(reduction(+ : w_sum, wn_sum))
        for (int64_t j = 0; j < d; j++) {
            const REAL w = gamma[j] * (1 - t[j] * t[j]) * g[j];
            out[j] = w;
            w_sum += w;
            wn_sum += w * ((u[j] - mean) * inv_std);
        }
        const REAL w_mean = w_sum / d, wn_mean = wn_sum / d;
        SIMD()
        for (int64_t j = 0; j < d; j++)
            out[j] = inv_std * (out[j] - w_mean - (u[j] - mean) * inv_std * wn_mean);
    }
}

/* (1 - t^2) gamma J(du), the tangent of t. */
TARGETS
static void NAME(push_rows)(int64_t begin, int64_t end, int64_t d, const REAL *restrict us,
                            int64_t stride, const REAL *restrict gamma, const REAL *restrict ts,
                            const REAL *restrict means, const REAL *restrict inv_stds,
                            const REAL *restrict dus, int64_t du_stride,
                            const int64_t *restrict index, REAL *restrict outs)
{
    for (int64_t i = begin; i < end; i++) {
        const REAL *restrict u = us + i * stride, *restrict t = ts + i * d;
        const REAL *restrict du = dus + (index ? index[i] : i) * du_stride;
        REAL *restrict out = outs + i * d;
        const REAL mean = means[i], inv_std = inv_stds[i];
        REAL du_sum = 0, along_sum = 0;
        SIMD(reduction(+ : du_sum, along_sum))
        for (int64_t j = 0; j < d; j++) {
            du_sum += du[j];
            along_sum += du[j] * ((u[j] - mean) * inv_std);
        }
        const REAL du_mean = du_sum / d, along = along_sum / d;
        SIMD()
        for (int64_t j = 0; j < d; j++) {
            const REAL dn = inv_std * (du[j] - du_mean - (u[j] - mean) * inv_std * along);
            out[j] = (1 - t[j] * t[j]) * gamma[j] * dn;
        }
    }
}

/* The way back through t and its tangent, see FusedTanhNorm.pull_both. Adds the derivatives in gamma
 * and beta to d_gamma and d_beta, BLOCK rows at a time so that rounding does not build up. scratch:
 * 5 d values. */
TARGETS
static void NAME(pull_both_rows)(int64_t begin, int64_t end, int64_t d, const REAL *restrict us,
                                 int64_t stride, const REAL *restrict gamma,
                                 const REAL *restrict ts, const REAL *restrict means,
                                 const REAL *restrict inv_stds, const REAL *restrict dus,
                                 int64_t du_stride, const int64_t *restrict index,
                                 const REAL *restrict es, const REAL *restrict gs,
                                 REAL *restrict outs, int64_t out_stride,
                                 REAL *restrict d_gamma, REAL *restrict d_beta,
                                 REAL *restrict scratch)
{
    REAL *restrict n = scratch, *restrict dn = scratch + d, *restrict v = scratch + 2 * d;
    REAL *restrict block_gamma = scratch + 3 * d, *restrict block_beta = scratch + 4 * d;
    for (int64_t from = begin; from < end; from += BLOCK) {
        const int64_t to = from + BLOCK < end ? from + BLOCK : end;
        for (int64_t j = 0; j < d; j++) block_gamma[j] = block_beta[j] = 0;
        for (int64_t i = from; i < to; i++) {
            const REAL *restrict u = us + i * stride, *restrict t = ts + i * d;
            const REAL *restrict du = dus + (index ? index[i] : i) * du_stride;
            const REAL *restrict e = es + i * d, *restrict g = gs + i * d;
            REAL *restrict out = outs + i * out_stride;
            const REAL mean = means[i], inv_std = inv_stds[i];
            REAL du_sum = 0, along_sum = 0;
            SIMD(reduction(+ : du_sum, along_sum))
            for (int64_t j = 0; j < d; j++) {
                n[j] = (u[j] - mean) * inv_std;
                du_sum += du[j];
                along_sum += du[j] * n[j];
            }
            const REAL du_mean = du_sum / d, along = along_sum / d;
            REAL wn_sum = 0, wdn_sum = 0, v_sum = 0, vn_sum = 0;
            SIMD(reduction(+ : wn_sum, wdn_sum, v_sum, vn_sum))
            for (int64_t j = 0; j < d; j++) {
                const REAL slope = 1 - t[j] * t[j];
                const REAL s = slope * g[j], w = gamma[j] * s;
                dn[j] = inv_std * (du[j] - du_mean - n[j] * along);
                const REAL q = slope * (e[j] - 2 * t[j] * gamma[j] * dn[j] * g[j]);
                v[j] = gamma[j] * (q - along * inv_std * s);
                block_gamma[j] += q * n[j] + s * dn[j];
                block_beta[j] += q;
                wn_sum += w * n[j];
                wdn_sum += w * dn[j];
                v_sum += v[j];
                vn_sum += v[j] * n[j];
            }
            const REAL wn_mean = wn_sum / d, wdn_mean = wdn_sum / d;
            const REAL v_mean = v_sum / d, vn_mean = vn_sum / d;
            SIMD()
            for (int64_t j = 0; j < d; j++)
                out[j] = inv_std * (v[j] - v_mean - n[j] * vn_mean - wn_mean * dn[j] - wdn_mean * n[j]);
        }
        for (int64_t j = 0; j < d; j++) {
            d_gamma[j] += block_gamma[j];
            d_beta[j] += block_beta[j];
        }
    }
}

void NAME(gather_add)(int threads, int64_t n, int64_t d, const REAL *from, const int64_t *index,
                      const REAL *to_add, int64_t stride, REAL *out)
{
    PARALLEL(threads)
    for (int k = 0; k < threads; k++)
        NAME(gather_add_rows)(PART(k), PART(k + 1), d, from, index, to_add, stride, out);
}

void NAME(at)(int threads, int64_t n, int64_t d, const REAL *u, int64_t stride, const REAL *gamma,
              const REAL *beta, REAL *t, REAL *mean, REAL *inv_std)
{
    PARALLEL(threads)
    for (int k = 0; k < threads; k++)
        NAME(at_rows)(PART(k), PART(k + 1), d, u, stride, gamma, beta, t, mean, inv_std);
}

void NAME(pull)(int threads, int64_t n, int64_t d, const REAL *u, int64_t stride,
                const REAL *gamma, const REAL *t, const REAL *mean, const REAL *inv_std,
                const REAL *g, REAL *out, int64_t out_stride)
{
    PARALLEL(threads)
    for (int k = 0; k < threads; k++)
        NAME(pull_rows)(PART(k), PART(k + 1), d, u, stride, gamma, t, mean, inv_std, g, out,
                        out_stride);
}

void NAME(push)(int threads, int64_t n, int64_t d, const REAL *u, int64_t stride,
                const REAL *gamma, const REAL *t, const REAL *mean, const REAL *inv_std,
                const REAL *du, int64_t du_stride, const int64_t *index, REAL *out)
{
    PARALLEL(threads)
    for (int k = 0; k < threads; k++)
        NAME(push_rows)(PART(k), PART(k + 1), d, u, stride, gamma, t, mean, inv_std, du, du_stride,
                        index, out);
}

/* sums: [threads, 7, d], zero at first; the derivatives in gamma and beta, in parts of as many
 * threads, and scratch. */
void NAME(pull_both)(int threads, int64_t n, int64_t d, const REAL *u, int64_t stride,
                     const REAL *gamma, const REAL *t, const REAL *mean, const REAL *inv_std,
                     const REAL *du, int64_t du_stride, const int64_t *index, const REAL *e,
                     const REAL *g, REAL *out, int64_t out_stride, REAL *sums)
{
    PARALLEL(threads)
    for (int k = 0; k < threads; k++) {
        REAL *own = sums + 7 * d * k;
        NAME(pull_both_rows)(PART(k), PART(k + 1), d, u, stride, gamma, t, mean, inv_std, du,
                             du_stride, index, e, g, out, out_stride, own, own + d, own + 2 * d);
    }
}
