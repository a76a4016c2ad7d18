/* A step of the solver (../step.py) and its derivative, with its names, row by row: each matrix is read
 * or written once. Threads share the rows.
 *
 * Included once for each REAL.
 */

/* new_y, new_m and ahead, and of each row norm, largest and whether y is not finite. */
TARGETS
static void NAME(step_rows)(int64_t rows, int64_t d, REAL gtol, REAL lr, REAL mu, const REAL *ys,
                            const REAL *ms, const REAL *gs, REAL *new_ys, REAL *new_ms, REAL *aheads,
                            REAL *norms, REAL *largests, unsigned char *diverged)
{
    for (int64_t i = 0; i < rows; i++) {
        const REAL *restrict y = ys + i * d, *restrict m = ms + i * d, *restrict g = gs + i * d;
        REAL *restrict new_y = new_ys + i * d, *restrict new_m = new_ms + i * d;
        REAL *restrict ahead = aheads + i * d;
        REAL squares = 0, largest = 0, nothing = 0;
        SIMD(reduction(+ : squares) reduction(max : largest))
        for (int64_t j = 0; j < d; j++) {
            const REAL size = g[j] < 0 ? -g[j] : g[j];
            squares += g[j] * g[j];
            largest = size > largest ? size : largest; /* skips NaN, which squares shows */
        }
        if (squares != squares) largest = squares;
        const REAL moves = largest >= gtol;
        SIMD(reduction(+ : nothing))
        for (int64_t j = 0; j < d; j++) {
            const REAL velocity = mu * m[j] - lr * g[j];
            const REAL to = moves ? y[j] + velocity : y[j];
            new_m[j] = velocity;
            new_y[j] = to;
            ahead[j] = to + mu * velocity;
            nothing += to * 0; /* NaN where y is not finite */
        }
        norms[i] = squares / d;
        largests[i] = largest;
        diverged[i] = nothing != 0;
    }
}

/* From the cotangents of the first four those of y, m and g; adds those of lr and mu to sums. */
TARGETS
static void NAME(step_rows_back)(int64_t rows, int64_t d, REAL gtol, REAL lr, REAL mu, const REAL *ms,
                                 const REAL *gs, const REAL *new_ms, const REAL *largests,
                                 const REAL *to_ys, const REAL *to_ms, const REAL *to_aheads,
                                 const REAL *to_norms, REAL *d_ys, REAL *d_ms, REAL *d_gs,
                                 double *sums)
{
    for (int64_t i = 0; i < rows; i++) {
        const REAL *restrict m = ms + i * d, *restrict g = gs + i * d;
        const REAL *restrict new_m = new_ms + i * d, *restrict to_y = to_ys + i * d;
        const REAL *restrict to_m = to_ms + i * d, *restrict to_ahead = to_aheads + i * d;
        REAL *restrict d_y = d_ys + i * d, *restrict d_m = d_ms + i * d, *restrict d_g = d_gs + i * d;
        const REAL moves = largests[i] >= gtol, to_square = 2 * to_norms[i] / d;
        REAL of_lr = 0, of_mu = 0;
        SIMD(reduction(+ : of_lr, of_mu))
        for (int64_t j = 0; j < d; j++) {
            const REAL to = to_y[j] + to_ahead[j];
            const REAL to_velocity = to_m[j] + mu * to_ahead[j] + (moves ? to : 0);
            d_y[j] = to;
            d_m[j] = mu * to_velocity;
            d_g[j] = to_square * g[j] - lr * to_velocity;
            of_lr -= to_velocity * g[j];
            of_mu += to_velocity * m[j] + to_ahead[j] * new_m[j];
        }
        sums[0] += of_lr;
        sums[1] += of_mu;
    }
}

void NAME(step)(int64_t threads, int64_t rows, int64_t d, double gtol, const REAL *lr, const REAL *mu,
                const REAL *y, const REAL *m, const REAL *g, REAL *new_y, REAL *new_m, REAL *ahead,
                REAL *norm, REAL *largest, unsigned char *diverged)
{
    PARALLEL(threads)
    SHARED
    for (int64_t k = 0; k < threads; k++) {
        const int64_t i = PART(rows, k), at = i * d;
        NAME(step_rows)(PART(rows, k + 1) - i, d, (REAL)gtol, *lr, *mu, y + at, m + at, g + at,
                        new_y + at, new_m + at, ahead + at, norm + i, largest + i, diverged + i);
    }
}

/* sums: of each thread those of lr and mu, zero at first. */
void NAME(step_back)(int64_t threads, int64_t rows, int64_t d, double gtol, const REAL *lr,
                     const REAL *mu, const REAL *m, const REAL *g, const REAL *new_m,
                     const REAL *largest, const REAL *to_y, const REAL *to_m, const REAL *to_ahead,
                     const REAL *to_norm, REAL *d_y, REAL *d_m, REAL *d_g, double *sums)
{
    PARALLEL(threads)
    SHARED
    for (int64_t k = 0; k < threads; k++) {
        const int64_t i = PART(rows, k), at = i * d;
        NAME(step_rows_back)(PART(rows, k + 1) - i, d, (REAL)gtol, *lr, *mu, m + at, g + at, new_m + at,
                             largest + i, to_y + at, to_m + at, to_ahead + at, to_norm + i, d_y + at,
                             d_m + at, d_g + at, sums + 2 * k);
    }
}
