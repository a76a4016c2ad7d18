/* tanh(LayerNorm(u)) row by row, its transposed derivative, and the derivatives of both: the formulas
 * of FusedTanhNorm in ../torch/elements.py, each in one pass over memory. A row stays in the
 * first cache between the loops over it.
 *
 * Included once for each REAL, with NAME(f) the name of f for it. All matrices have contiguous rows of
 * d values; where a stride is given, rows are that far apart, otherwise d. Where an index is given
 * that is not NULL, row i of a matrix is that of index[i].
 */

typedef struct {
    int64_t rows, d;
    const REAL *u;
    int64_t stride;
    const REAL *gamma, *beta;
    REAL *t;       /* what at() leaves here */
    REAL *of_rows; /* [4, rows]: mean and inverse deviation by at(), mean of du and of du n by push() */
} NAME(Stage);

/* Mean and inverse deviation of four rows at a time, so that no sum waits for its own last addition;
 * rows missing in the last four are the last row again. */
TARGETS
static void NAME(moments)(const NAME(Stage) *stage)
{
    const int64_t d = stage->d, last = stage->rows - 1;
    for (int64_t i = 0; i <= last; i += 4) {
        int64_t row[4];
        for (int k = 0; k < 4; k++) row[k] = i + k < last ? i + k : last;
        const REAL *restrict u0 = stage->u + row[0] * stage->stride;
        const REAL *restrict u1 = stage->u + row[1] * stage->stride;
        const REAL *restrict u2 = stage->u + row[2] * stage->stride;
        const REAL *restrict u3 = stage->u + row[3] * stage->stride;
        REAL s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        SIMD(reduction(+ : s0, s1, s2, s3))
        for (int64_t j = 0; j < d; j++) {
            s0 += u0[j];
            s1 += u1[j];
            s2 += u2[j];
            s3 += u3[j];
        }
        const REAL mean[4] = {s0 / d, s1 / d, s2 / d, s3 / d};
        s0 = s1 = s2 = s3 = 0;
        SIMD(reduction(+ : s0, s1, s2, s3))
        for (int64_t j = 0; j < d; j++) {
            s0 += (u0[j] - mean[0]) * (u0[j] - mean[0]);
            s1 += (u1[j] - mean[1]) * (u1[j] - mean[1]);
            s2 += (u2[j] - mean[2]) * (u2[j] - mean[2]);
            s3 += (u3[j] - mean[3]) * (u3[j] - mean[3]);
        }
        const REAL squares[4] = {s0, s1, s2, s3};
        for (int k = 0; k < 4; k++) {
            stage->of_rows[row[k]] = mean[k];
            stage->of_rows[stage->rows + row[k]] = 1 / SQRT(squares[k] / d + (REAL)EPS);
        }
    }
}

/* At u: its moments, and t = tanh(gamma n + beta). */
TARGETS
static void NAME(at)(const NAME(Stage) *stage)
{
    const int64_t d = stage->d;
    const REAL *restrict gamma = stage->gamma, *restrict beta = stage->beta;
    NAME(moments)(stage);
    for (int64_t i = 0; i < stage->rows; i++) {
        const REAL *restrict u = stage->u + i * stage->stride;
        REAL *restrict t = stage->t + i * d;
        const REAL mean = stage->of_rows[i], inv_std = stage->of_rows[stage->rows + i];
        SIMD()
        for (int64_t j = 0; j < d; j++) { /* tanh(a) = 1 - 2 / (exp(2 a) + 1) */
            const REAL a = gamma[j] * ((u[j] - mean) * inv_std) + beta[j];
            t[j] = 1 - 2 / (NAME(exp_twice)(a) + 1);
        }
    }
}

/* J(gamma (1 - t^2) g), the pullback of g. */
TARGETS
static void NAME(pull)(const NAME(Stage) *stage, const REAL *gs, REAL *outs, int64_t out_stride)
{
    const int64_t d = stage->d;
    const REAL *restrict gamma = stage->gamma;
    for (int64_t i = 0; i < stage->rows; i++) {
        const REAL *restrict u = stage->u + i * stage->stride, *restrict t = stage->t + i * d;
        const REAL *restrict g = gs + i * d;
        REAL *restrict out = outs + i * out_stride;
        const REAL mean = stage->of_rows[i], inv_std = stage->of_rows[stage->rows + i];
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
static void NAME(push)(const NAME(Stage) *stage, const REAL *dus, int64_t du_stride,
                       const int64_t *index, REAL *outs)
{
    const int64_t d = stage->d;
    const REAL *restrict gamma = stage->gamma;
    for (int64_t i = 0; i < stage->rows; i++) {
        const REAL *restrict u = stage->u + i * stage->stride, *restrict t = stage->t + i * d;
        const REAL *restrict du = dus + (index ? index[i] : i) * du_stride;
        REAL *restrict out = outs + i * d;
        const REAL mean = stage->of_rows[i], inv_std = stage->of_rows[stage->rows + i];
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
        stage->of_rows[2 * stage->rows + i] = du_mean;
        stage->of_rows[3 * stage->rows + i] = along;
    }
}

/* Backward through t and its tangent along du, see FusedTanhNorm.pull_both; push() has been along
 * du. Adds the derivatives in gamma and beta to d_gamma and d_beta, GROUP rows at a time so that
 * rounding does not build up. scratch: 4 d values. */
TARGETS
static void NAME(pull_both)(const NAME(Stage) *stage, const REAL *dus, int64_t du_stride,
                            const int64_t *index, const REAL *es, const REAL *gs, REAL *outs,
                            int64_t out_stride, REAL *restrict d_gamma, REAL *restrict d_beta,
                            REAL *restrict scratch)
{
    const int64_t d = stage->d, rows = stage->rows;
    const REAL *restrict gamma = stage->gamma;
    REAL *restrict dn = scratch, *restrict v = scratch + d;
    REAL *restrict group_gamma = scratch + 2 * d, *restrict group_beta = scratch + 3 * d;
    for (int64_t from = 0; from < rows; from += GROUP) {
        const int64_t to = from + GROUP < rows ? from + GROUP : rows;
        for (int64_t j = 0; j < d; j++) group_gamma[j] = group_beta[j] = 0;
        for (int64_t i = from; i < to; i++) {
            const REAL *restrict u = stage->u + i * stage->stride, *restrict t = stage->t + i * d;
            const REAL *restrict du = dus + (index ? index[i] : i) * du_stride;
            const REAL *restrict e = es + i * d, *restrict g = gs + i * d;
            REAL *restrict out = outs + i * out_stride;
            const REAL mean = stage->of_rows[i], inv_std = stage->of_rows[stage->rows + i];
            const REAL du_mean = stage->of_rows[2 * rows + i], along = stage->of_rows[3 * rows + i];
            REAL wn_sum = 0, wdn_sum = 0, v_sum = 0, vn_sum = 0;
            SIMD(reduction(+ : wn_sum, wdn_sum, v_sum, vn_sum))
            for (int64_t j = 0; j < d; j++) {
                const REAL n = (u[j] - mean) * inv_std, slope = 1 - t[j] * t[j];
                const REAL s = slope * g[j], w = gamma[j] * s;
                dn[j] = inv_std * (du[j] - du_mean - n * along);
                const REAL q = slope * (e[j] - 2 * t[j] * gamma[j] * dn[j] * g[j]);
                v[j] = gamma[j] * (q - along * inv_std * s);
                group_gamma[j] += q * n + s * dn[j];
                group_beta[j] += q;
                wn_sum += w * n;
                wdn_sum += w * dn[j];
                v_sum += v[j];
                vn_sum += v[j] * n;
            }
            const REAL wn_mean = wn_sum / d, wdn_mean = wdn_sum / d;
            const REAL v_mean = v_sum / d, vn_mean = vn_sum / d;
            SIMD()
            for (int64_t j = 0; j < d; j++) {
                const REAL n = (u[j] - mean) * inv_std;
                out[j] = inv_std * (v[j] - v_mean - n * (vn_mean + wdn_mean) - wn_mean * dn[j]);
            }
        }
        for (int64_t j = 0; j < d; j++) {
            d_gamma[j] += group_gamma[j];
            d_beta[j] += group_beta[j];
        }
    }
}
