/* A whole solve and its derivative, with the names and formulas of ../../solver.py and ../torch/steps.py.
 *
 * Segments are independent, so a thread takes a few of them, a tile, through all steps before it goes
 * on to the next tile: a step needs no barrier, and what it works on stays in the thread's cache. Tiles
 * depend on ptr alone. Gradients of the weights are summed over the tiles of a part, then over parts, in
 * an order that depends on the number of threads alone.
 *
 * Included once for each REAL, after elements.h.
 */

/* Saved for backward: some steps of one tile with n elements and s segments, step after step. */
typedef struct {
    REAL *y, *velocity, *g;         /* before the step; its gradient: [s, D] each */
    REAL *total, *from_y1;          /* [s, all], [s, wide] */
    NAME(Activations) activations;  /* of n elements */
} NAME(SavedSteps);

/* Memory of one thread. */
typedef struct {
    int64_t *index;                       /* segment of each element, counted from the tile's first */
    REAL *y, *velocity, *ahead, *g;       /* [s, D] */
    REAL *from_y, *total;                 /* [s, all] */
    REAL *block;
    NAME(Activations) activations;        /* of one block */
    REAL *to_y, *to_velocity, *to_ahead;  /* cotangents [s, D] */
    REAL *aheads, *dys, *h_totals;        /* of as many steps as stack: [stack, s, ...] */
    NAME(SavedSteps) steps;                    /* of interval steps, computed again */
} NAME(Workspace);

/* The next n values of base, on a cache line of their own; counts them where base is NULL. So the same
 * products have operands of the same alignment, and with it the same rounding, saved or not. */
static REAL *NAME(take)(REAL *base, int64_t *used, int64_t n)
{
    REAL *here = base ? base + *used : NULL;
    *used += padded(n);
    return here;
}

/* Activations of n elements in some steps. */
static NAME(Activations) NAME(take_activations)(REAL *base, int64_t *used, int64_t steps, int64_t n,
                                                int64_t hidden)
{
    NAME(Activations) a;
    a.u2 = NAME(take)(base, used, steps * padded(n * hidden));
    a.d23 = NAME(take)(base, used, steps * padded(n * (hidden + OUTPUTS)));
    a.to_t1 = NAME(take)(base, used, steps * padded(n * 2 * hidden));
    return a;
}

static NAME(SavedSteps) NAME(take_steps)(REAL *base, int64_t *used, const Problem *p, int64_t steps,
                                    int64_t n, int64_t s)
{
    const int64_t wide = 2 * p->hidden, all = wide + p->hidden + OUTPUTS;
    NAME(SavedSteps) saved;
    saved.y = NAME(take)(base, used, steps * s * p->channels);
    saved.velocity = NAME(take)(base, used, steps * s * p->channels);
    saved.g = NAME(take)(base, used, steps * s * p->channels);
    saved.total = NAME(take)(base, used, steps * s * all);
    saved.from_y1 = NAME(take)(base, used, steps * s * wide);
    saved.activations = NAME(take_activations)(base, used, steps, n, p->hidden);
    return saved;
}

/* Those from an element on, of n, in one step. */
static NAME(Activations) NAME(activations_at)(NAME(Activations) a, int64_t step, int64_t n, int64_t row,
                                              int64_t hidden)
{
    a.u2 += step * padded(n * hidden) + row * hidden;
    a.d23 += step * padded(n * (hidden + OUTPUTS)) + row * (hidden + OUTPUTS);
    a.to_t1 += step * padded(n * 2 * hidden) + row * 2 * hidden;
    return a;
}

/* Lays the workspace out in base; returns how many values it takes. */
static int64_t NAME(layout)(NAME(Workspace) *w, REAL *base, const Problem *p, const Tiling *tiling,
                            int backward)
{
    const int64_t s = tiling->most_segments, n = tiling->most_elements, d = p->channels;
    const int64_t all = 3 * p->hidden + OUTPUTS, rows = n < BLOCK ? n : BLOCK;
    const int64_t forward_block = rows * NAME(block_forward_memory)(p->hidden);
    const int64_t backward_block = rows * NAME(block_backward_memory)(p->hidden) + 8 * p->hidden;
    int64_t used = 0;
    w->index = (int64_t *)NAME(take)(base, &used, n * (int64_t)(sizeof(int64_t) / sizeof(REAL)));
    w->ahead = NAME(take)(base, &used, s * d);
    w->from_y = NAME(take)(base, &used, s * all);
    w->total = NAME(take)(base, &used, s * all);
    w->g = NAME(take)(base, &used, s * d);
    w->y = NAME(take)(base, &used, s * d);
    w->velocity = NAME(take)(base, &used, s * d);
    w->block = NAME(take)(base, &used, backward ? backward_block : forward_block);
    w->activations = NAME(take_activations)(base, &used, 1, rows, p->hidden);
    if (backward) {
        w->to_y = NAME(take)(base, &used, s * d);
        w->to_velocity = NAME(take)(base, &used, s * d);
        w->to_ahead = NAME(take)(base, &used, s * d);
        w->aheads = NAME(take)(base, &used, tiling->stack * s * d);
        w->dys = NAME(take)(base, &used, tiling->stack * s * d);
        w->h_totals = NAME(take)(base, &used, tiling->stack * s * all);
        w->steps = NAME(take_steps)(base, &used, p, p->interval, n, s);
    }
    return used;
}

/* Largest absolute value of a row, NaN where one is. */
TARGETS
static REAL NAME(largest)(int64_t d, const REAL *restrict g)
{
    REAL largest = 0, nothing = 0;
    SIMD(reduction(+ : nothing) reduction(max : largest))
    for (int64_t j = 0; j < d; j++) {
        const REAL size = g[j] < 0 ? -g[j] : g[j];
        nothing += g[j] != g[j]; /* the maximum skips NaN */
        largest = size > largest ? size : largest;
    }
    return nothing > 0 ? (REAL)NAN : largest;
}

/* a + factor b. */
TARGETS
static void NAME(combine)(int64_t n, const REAL *restrict a, REAL factor, const REAL *restrict b,
                          REAL *restrict out)
{
    SIMD()
    for (int64_t j = 0; j < n; j++) out[j] = a[j] + factor * b[j];
}

/* The solver's step for the rows of a tile, from s the first on: y and velocity in place. g holds the
 * potential's gradient and becomes the energy's. */
TARGETS
static void NAME(step_rows)(const Problem *p, const Result *r, int64_t first, int64_t rows,
                            const REAL *aheads, REAL *ys, REAL *velocities, REAL *gs)
{
    const int64_t d = p->channels;
    const REAL lr = (REAL)p->lr, mu = (REAL)p->momentum, clip = (REAL)p->clip;
    const REAL prior_weight = (REAL)p->prior_weight;
    for (int64_t i = 0; i < rows; i++) {
        const REAL *restrict ahead = aheads + i * d;
        REAL *restrict y = ys + i * d, *restrict velocity = velocities + i * d;
        REAL *restrict g = gs + i * d;
        const REAL scale = ((const REAL *)p->scale)[first + i];
        REAL squares = 0, nothing = 0;
        SIMD(reduction(+ : squares))
        for (int64_t j = 0; j < d; j++) {
            g[j] = scale * (2 * prior_weight * ahead[j] + g[j]);
            squares += g[j] * g[j];
        }
        const REAL largest = NAME(largest)(d, g);
        const int moves = !(largest < (REAL)p->gtol);
        SIMD(reduction(+ : nothing))
        for (int64_t j = 0; j < d; j++) {
            velocity[j] = mu * velocity[j] - lr * g[j];
            REAL to = moves ? y[j] + velocity[j] : y[j];
            if (clip > 0) to = to > clip ? clip : to < -clip ? -clip : to;
            y[j] = to;
            nothing += to * 0; /* NaN where y is not finite */
        }
        if (r == NULL) continue;
        const int64_t s = first + i;
        REAL *first_max = (REAL *)r->first_max + s;
        ((REAL *)r->mean_square)[s] = squares / d;
        ((REAL *)r->path)[s] += squares / d;
        ((REAL *)r->max)[s] = largest;
        if (!(*first_max > 0)) *first_max = largest;
        r->steps[s] += moves;
        r->converged[s] = largest < (REAL)p->gtol;
        r->diverged[s] = nothing != 0;
    }
}

/* Steps begin to end of a tile from the workspace's y and velocity on, in place. From save_from on they
 * are saved, if saved is not NULL; results go to r, if it is not NULL. */
static void NAME(forward_tile)(const Problem *p, const NAME(Network) *net, NAME(Workspace) *w,
                               Tile tile, int64_t begin, int64_t end, const NAME(SavedSteps) *saved,
                               int64_t save_from, const Result *r)
{
    REAL *y = w->y, *velocity = w->velocity;
    const int64_t n = tile.elements, s = tile.segments, d = p->channels, hidden = p->hidden;
    const int64_t wide = 2 * hidden, all = wide + hidden + OUTPUTS;
    const REAL *a_y = p->a_y, *fixed = (const REAL *)p->fixed + tile.first_element * all;
    for (int64_t t = begin; t < end; t++) {
        const int save = saved != NULL && t >= save_from;
        const int64_t slot = t - save_from;
        NAME(combine)(s * d, y, (REAL)p->momentum, velocity, w->ahead);
        NAME(product)(net->gemm, s, all, d, w->ahead, 'N', d, a_y, 'T', d, 0, w->from_y, all);
        if (save) {
            memcpy(saved->y + slot * s * d, y, s * d * sizeof(REAL));
            memcpy(saved->velocity + slot * s * d, velocity, s * d * sizeof(REAL));
            NAME(scale)(s, wide, 1, w->from_y, all, NULL, saved->from_y1 + slot * s * wide, wide);
        }
        memset(w->total, 0, s * all * sizeof(REAL));
        for (int64_t i = 0; i < n; i += BLOCK) {
            const int64_t rows = n - i < BLOCK ? n - i : BLOCK;
            const NAME(Activations) here =
                save ? NAME(activations_at)(saved->activations, slot, n, i, hidden) : w->activations;
            NAME(block_forward)(net, rows, w->from_y, fixed + i * all, w->index + i, w->block, here,
                                w->total);
        }
        NAME(product)(net->gemm, s, d, all, w->total, 'N', all, a_y, 'N', d, 0, w->g, d);
        NAME(step_rows)(p, r, tile.first_segment, s, w->ahead, y, velocity, w->g);
        if (save) {
            memcpy(saved->g + slot * s * d, w->g, s * d * sizeof(REAL));
            memcpy(saved->total + slot * s * all, w->total, s * all * sizeof(REAL));
        }
    }
}

/* Derivative of step t in the rows of a tile, up to the gradient at the look-ahead point: turns the
 * cotangents to_y and to_velocity after the step into those before it. */
TARGETS
static void NAME(step_rows_backward)(const Problem *p, const Cotangent *c, int64_t t, int64_t first,
                                     int64_t rows, const REAL *ys, const REAL *velocities,
                                     const REAL *gs, NAME(Workspace) *w, REAL *aheads, REAL *dys,
                                     double *scalars)
{
    const int64_t d = p->channels;
    const REAL lr = (REAL)p->lr, mu = (REAL)p->momentum, clip = (REAL)p->clip;
    const REAL prior_weight = (REAL)p->prior_weight;
    for (int64_t i = 0; i < rows; i++) {
        const REAL *restrict y = ys + i * d, *restrict velocity = velocities + i * d;
        const REAL *restrict g = gs + i * d;
        REAL *restrict to_y = w->to_y + i * d, *restrict to_velocity = w->to_velocity + i * d;
        REAL *restrict to_ahead = w->to_ahead + i * d, *restrict ahead = aheads + i * d;
        REAL *restrict dy = dys + i * d;
        const REAL scale = ((const REAL *)p->scale)[first + i];
        REAL to_square = ((const REAL *)c->path)[first + i];
        if (t == p->steps - 1) to_square += ((const REAL *)c->mean_square)[first + i];
        to_square *= (REAL)2 / d;
        const int moves = !(NAME(largest)(d, g) < (REAL)p->gtol);
        REAL of_lr = 0, of_mu = 0, of_prior_weight = 0;
        SIMD(reduction(+ : of_lr, of_mu, of_prior_weight))
        for (int64_t j = 0; j < d; j++) {
            const REAL next = mu * velocity[j] - lr * g[j], to = moves ? y[j] + next : y[j];
            const REAL of_y = clip > 0 && !(to >= -clip && to <= clip) ? 0 : to_y[j];
            const REAL of_next = to_velocity[j] + (moves ? of_y : 0);
            const REAL of_g = to_square * g[j] - lr * of_next;
            of_lr -= of_next * g[j];
            of_mu += of_next * velocity[j];
            to_y[j] = of_y;
            to_velocity[j] = mu * of_next;
            ahead[j] = y[j] + mu * velocity[j];
            dy[j] = scale * of_g;
            to_ahead[j] = 2 * prior_weight * dy[j];
            of_prior_weight += 2 * dy[j] * ahead[j];
        }
        scalars[0] += of_lr;
        scalars[1] += of_mu;
        scalars[2] += of_prior_weight;
    }
}

/* ... and from the look-ahead point on. */
TARGETS
static void NAME(ahead_rows_backward)(const Problem *p, int64_t n, const REAL *restrict velocity,
                                      const REAL *restrict to_ahead, REAL *restrict to_y,
                                      REAL *restrict to_velocity, double *scalars)
{
    const REAL mu = (REAL)p->momentum;
    REAL of_mu = 0;
    SIMD(reduction(+ : of_mu))
    for (int64_t j = 0; j < n; j++) {
        to_y[j] += to_ahead[j];
        to_velocity[j] += mu * to_ahead[j];
        of_mu += to_ahead[j] * velocity[j];
    }
    scalars[1] += of_mu;
}

/* Backward through steps end - 1 to begin of a tile; slot 0 of saved is that of step save_from. */
static void NAME(backward_tile)(const Problem *p, const NAME(Network) *net, const Cotangent *c,
                                NAME(Workspace) *w, Tile tile, int64_t begin, int64_t end,
                                const NAME(SavedSteps) *saved, int64_t save_from, int64_t stack,
                                REAL *d_fixed, REAL *d_a_y, NAME(NetworkGradient) d_net,
                                double *scalars)
{
    const int64_t n = tile.elements, s = tile.segments, d = p->channels, hidden = p->hidden;
    const int64_t wide = 2 * hidden, all = wide + hidden + OUTPUTS;
    const REAL *a_y = p->a_y, *fixed = (const REAL *)p->fixed + tile.first_element * all;
    int64_t place = stack;
    for (int64_t t = end - 1; t >= begin; t--) {
        const int64_t slot = t - save_from;
        const REAL *velocity = saved->velocity + slot * s * d;
        place--;
        REAL *dy = w->dys + place * s * d, *h_total = w->h_totals + place * s * all;
        NAME(step_rows_backward)(p, c, t, tile.first_segment, s, saved->y + slot * s * d, velocity,
                                 saved->g + slot * s * d, w, w->aheads + place * s * d, dy, scalars);
        NAME(product)(net->gemm, s, all, d, dy, 'N', d, a_y, 'T', d, 0, w->from_y, all);
        memset(h_total, 0, s * all * sizeof(REAL));
        for (int64_t i = 0; i < n; i += BLOCK) {
            const int64_t rows = n - i < BLOCK ? n - i : BLOCK;
            NAME(block_backward)(net, rows, saved->from_y1 + slot * s * wide, w->from_y,
                                 fixed + i * all, w->index + i,
                                 NAME(activations_at)(saved->activations, slot, n, i, hidden), w->block,
                                 d_fixed + i * all, h_total, d_net);
        }
        NAME(product)(net->gemm, s, d, all, h_total, 'N', all, a_y, 'N', d, 1, w->to_ahead, d);
        NAME(ahead_rows_backward)(p, s * d, velocity, w->to_ahead, w->to_y, w->to_velocity, scalars);
        if (place > 0 && t > begin) continue;
        const int64_t rows = (stack - place) * s; /* of the steps since the last time */
        NAME(product)(net->gemm, all, d, rows, h_total, 'T', all, w->aheads + place * s * d, 'N', d, 1,
                      d_a_y, d);
        NAME(product)(net->gemm, all, d, rows, saved->total + slot * s * all, 'T', all, dy, 'N', d, 1,
                      d_a_y, d);
        place = stack;
    }
}

static NAME(Network) NAME(network)(const Problem *p)
{
    NAME(Network) net = {(NAME(Gemm) *)p->gemm, p->hidden, p->b, p->w3, p->gamma1, p->beta1,
                         p->gamma2, p->beta2};
    return net;
}

/* Takes what forward saves of a tile: its last steps or, where they are computed again, y and velocity
 * [s, D] before the first of each interval steps. */
static NAME(SavedSteps) NAME(take_saved)(const Problem *p, Tile tile, REAL *base, int64_t *used)
{
    if (p->interval == 0)
        return NAME(take_steps)(base, used, p, p->saved_steps, tile.elements, tile.segments);
    NAME(SavedSteps) states = {.y = NAME(take)(base, used, intervals(p) * tile.segments * p->channels)};
    states.velocity = NAME(take)(base, used, intervals(p) * tile.segments * p->channels);
    return states;
}

/* Number of values that forward saves for backward; where offsets is not NULL, where each tile's begin. */
static int64_t NAME(offsets)(const Problem *p, const Tiling *tiling, int64_t *offsets)
{
    int64_t used = 0;
    for (int64_t k = 0; k < tiling->tiles; k++) {
        if (offsets != NULL) offsets[k] = used;
        NAME(take_saved)(p, tile_at(p, tiling, k), NULL, &used);
    }
    return used;
}

int64_t NAME(saved_size)(const Problem *p)
{
    Tiling tiling;
    const int64_t size = make_tiling(p, &tiling) == DONE ? NAME(offsets)(p, &tiling, NULL) : 0;
    free(tiling.bounds);
    return size;
}

/* All steps of one tile; saved: where its values begin, or NULL. */
static void NAME(forward_whole_tile)(const Problem *p, const NAME(Network) *net, const Result *r,
                                     NAME(Workspace) *w, Tile tile, REAL *saved)
{
    const int64_t n = tile.segments * p->channels, at = tile.first_segment * p->channels;
    REAL *y = (REAL *)r->y + at, *velocity = (REAL *)r->velocity + at;
    int64_t used = 0;
    fill_index(p, tile, w->index);
    memcpy(w->y, (const REAL *)p->start + at, n * sizeof(REAL));
    memset(w->velocity, 0, n * sizeof(REAL));
    for (int64_t s = tile.first_segment; s < tile.first_segment + tile.segments; s++)
        ((REAL *)r->path)[s] = ((REAL *)r->first_max)[s] = r->steps[s] = 0;
    if (saved != NULL && p->interval > 0) {
        const NAME(SavedSteps) states = NAME(take_saved)(p, tile, saved, &used);
        for (int64_t t = 0, k = 0; t < p->steps; t += p->interval, k++) {
            const int64_t end = t + p->interval < p->steps ? t + p->interval : p->steps;
            memcpy(states.y + k * n, w->y, n * sizeof(REAL));
            memcpy(states.velocity + k * n, w->velocity, n * sizeof(REAL));
            NAME(forward_tile)(p, net, w, tile, t, end, NULL, 0, r);
        }
    } else {
        NAME(SavedSteps) steps;
        if (saved != NULL) steps = NAME(take_saved)(p, tile, saved, &used);
        NAME(forward_tile)(p, net, w, tile, 0, p->steps, saved ? &steps : NULL,
                           p->steps - p->saved_steps, r);
    }
    memcpy(y, w->y, n * sizeof(REAL));
    memcpy(velocity, w->velocity, n * sizeof(REAL));
}

/* What threads share. A thread takes the next tile, or part, when it is done with one. */
typedef struct {
    const Problem *p;
    Tiling tiling;
    NAME(Network) net;
    REAL *saved, *memory; /* memory: own values for each thread */
    int64_t *offsets;     /* of each tile in saved */
    int64_t threads, own;
    int64_t next;
    const Result *r;      /* of forward */
    const Cotangent *c;   /* of backward, like what follows */
    const Gradient *gradient;
    int64_t parts, weights;
    REAL *sums;           /* [parts, weights]: gradients of the weights */
    double *scalars;      /* [parts, 3] */
} NAME(Job);

/* Divides the work and allocates memory. */
static int NAME(prepare)(NAME(Job) *job, int backward)
{
    const Problem *p = job->p;
    const int status = make_tiling(p, &job->tiling);
    if (status != DONE) return status;
    NAME(Workspace) sizes;
    job->net = NAME(network)(p);
    job->threads = job->tiling.tiles < p->threads ? job->tiling.tiles : p->threads;
    job->own = NAME(layout)(&sizes, NULL, p, &job->tiling, backward);
    job->memory = allocate(job->threads * job->own * sizeof(REAL));
    job->offsets = malloc((job->tiling.tiles + 1) * sizeof(int64_t));
    if (job->memory == NULL || job->offsets == NULL) return NO_MEMORY;
    NAME(offsets)(p, &job->tiling, job->offsets);
    if (!backward) return DONE;
    const int64_t most = 4 * job->threads;
    job->parts = job->tiling.tiles < most ? job->tiling.tiles : most;
    job->weights = (3 * p->hidden + OUTPUTS) * p->channels + OUTPUTS * p->hidden + 6 * p->hidden +
                   (p->hidden + OUTPUTS) * 2 * p->hidden;
    job->sums = calloc(job->parts * job->weights + 1, sizeof(REAL));
    job->scalars = calloc(job->parts * 3 + 1, sizeof(double));
    return job->sums == NULL || job->scalars == NULL ? NO_MEMORY : DONE;
}

static int NAME(finish)(NAME(Job) *job, int status)
{
    free(job->tiling.bounds);
    free(job->memory);
    free(job->offsets);
    free(job->sums);
    free(job->scalars);
    return status;
}

static void NAME(forward_thread)(NAME(Job) *job, int64_t thread)
{
    NAME(Workspace) w;
    NAME(layout)(&w, job->memory + thread * job->own, job->p, &job->tiling, 0);
    for (int64_t k; (k = take_next(&job->next)) < job->tiling.tiles;)
        NAME(forward_whole_tile)(job->p, &job->net, job->r, &w, tile_at(job->p, &job->tiling, k),
                                 job->saved ? job->saved + job->offsets[k] : NULL);
}

int NAME(solve_forward)(const Problem *p, const Result *r, REAL *saved)
{
    NAME(Job) job = {.p = p, .r = r, .saved = saved};
    const int status = NAME(prepare)(&job, 0);
    if (status == DONE) RUN(NAME(forward_thread), job);
    return NAME(finish)(&job, status);
}

/* Backward of one tile through all its saved steps; saved: where its values begin. */
static void NAME(backward_whole_tile)(NAME(Job) *job, NAME(Workspace) *w, int64_t k, REAL *d_a_y,
                                      NAME(NetworkGradient) d_net, double *scalars)
{
    const Problem *p = job->p;
    const Tile tile = tile_at(job->p, &job->tiling, k);
    const int64_t n = tile.segments * p->channels, at = tile.first_segment * p->channels;
    const int64_t all = 3 * p->hidden + OUTPUTS;
    REAL *d_fixed = (REAL *)job->gradient->fixed + tile.first_element * all;
    int64_t used = 0;
    const NAME(SavedSteps) saved = NAME(take_saved)(p, tile, job->saved + job->offsets[k], &used);
    fill_index(p, tile, w->index);
    if (tile.elements) memset(d_fixed, 0, tile.elements * all * sizeof(REAL));
    memcpy(w->to_y, (const REAL *)job->c->y + at, n * sizeof(REAL));
    memcpy(w->to_velocity, (const REAL *)job->c->velocity + at, n * sizeof(REAL));
    if (p->interval == 0) {
        const int64_t from = p->steps - p->saved_steps;
        NAME(backward_tile)(p, &job->net, job->c, w, tile, from, p->steps, &saved, from,
                            job->tiling.stack, d_fixed, d_a_y, d_net, scalars);
    }
    for (int64_t i = intervals(p) - 1; i >= 0; i--) {
        const int64_t begin = i * p->interval, most = begin + p->interval;
        const int64_t end = most < p->steps ? most : p->steps;
        memcpy(w->y, saved.y + i * n, n * sizeof(REAL));
        memcpy(w->velocity, saved.velocity + i * n, n * sizeof(REAL));
        NAME(forward_tile)(p, &job->net, w, tile, begin, end, &w->steps, begin, NULL);
        NAME(backward_tile)(p, &job->net, job->c, w, tile, begin, end, &w->steps, begin,
                            job->tiling.stack, d_fixed, d_a_y, d_net, scalars);
    }
    memcpy((REAL *)job->gradient->start + at, w->to_y, n * sizeof(REAL));
}

static void NAME(backward_thread)(NAME(Job) *job, int64_t thread)
{
    const int64_t hidden = job->p->hidden, wide = 2 * hidden, tail = hidden + OUTPUTS;
    const int64_t tiles = job->tiling.tiles, parts = job->parts;
    NAME(Workspace) w;
    NAME(layout)(&w, job->memory + thread * job->own, job->p, &job->tiling, 1);
    for (int64_t part; (part = take_next(&job->next)) < parts;) {
        REAL *d_a_y = job->sums + part * job->weights;
        NAME(NetworkGradient) d_net = {.b = d_a_y + (wide + tail) * job->p->channels};
        d_net.w3 = d_net.b + tail * wide;
        d_net.gamma1 = d_net.w3 + OUTPUTS * hidden;
        d_net.beta1 = d_net.gamma1 + wide;
        d_net.gamma2 = d_net.beta1 + wide;
        d_net.beta2 = d_net.gamma2 + hidden;
        for (int64_t k = tiles * part / parts; k < tiles * (part + 1) / parts; k++)
            NAME(backward_whole_tile)(job, &w, k, d_a_y, d_net, job->scalars + 3 * part);
    }
}

int NAME(solve_backward)(const Problem *p, const Cotangent *c, const Gradient *gradient, REAL *saved)
{
    NAME(Job) job = {.p = p, .c = c, .gradient = gradient, .saved = saved};
    const int status = NAME(prepare)(&job, 1);
    if (status == DONE) {
        RUN(NAME(backward_thread), job);
        memset(gradient->weights, 0, job.weights * sizeof(REAL));
        memset(gradient->scalars, 0, 3 * sizeof(double));
        for (int64_t part = 0; part < job.parts; part++)
            NAME(add_rows)(1, job.weights, job.sums + part * job.weights, job.weights, NULL,
                           gradient->weights, job.weights);
        for (int64_t i = 0; i < 3 * job.parts; i++) gradient->scalars[i % 3] += job.scalars[i];
    }
    return NAME(finish)(&job, status);
}
