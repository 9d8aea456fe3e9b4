/*
 * ttbench_keys.c - which key comes next, and how it is spelled (ttbench_keys.h).
 *
 * Zipf ranks are drawn by rejection-inversion (W. Hörmann, G. Derflinger, 1996): no table of the
 * size of the key space, about one attempt per draw.
 */
#include "tools/ttbench_keys.h"

#include <math.h>
#include <string.h>

#include "tools/ttbench_value.h"

__extension__ typedef unsigned __int128 u128;

static size_t digits_of(uint64_t v)
{
    size_t n = 1;

    for (; v >= 10; v /= 10)
        n++;
    return n;
}

bool key_space_init(struct key_space *space, struct slice prefix, size_t key_len, uint64_t count)
{
    size_t digits = digits_of(count - 1);

    if (key_len == 0)
        key_len = prefix.len + (digits > 10 ? digits : 10);
    space->prefix = prefix;
    space->key_len = key_len;
    space->count = count;
    return key_len <= KEY_BYTES_MAX && prefix.len <= key_len && digits <= key_len - prefix.len;
}

struct slice key_text(const struct key_space *space, uint64_t id, char *out)
{
    memcpy(out, space->prefix.ptr, space->prefix.len);
    for (size_t at = space->key_len; at > space->prefix.len; at--) {
        out[at - 1] = (char)('0' + id % 10);
        id /= 10;
    }
    return slice_of(out, space->key_len);
}

uint64_t rng_next(struct rng *r)
{
    uint64_t draw = value_mix(r->state);

    r->state += 0x9e3779b97f4a7c15u;
    return draw;
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
    return (uint64_t)((u128)rng_next(r) * n >> 64);
}

/* Evenly from [0, 1). */
static double rng_unit(struct rng *r)
{
    return (double)(rng_next(r) >> 11) * 0x1.0p-53;
}

static double zipf_density(const struct key_picker *p, double x)
{
    return exp(-p->exponent * log(x));
}

/* Integral of the density from 1 to x. */
static double zipf_area(const struct key_picker *p, double x)
{
    double t = (1.0 - p->exponent) * log(x);

    return fabs(1.0 - p->exponent) < 1e-9 ? log(x) : expm1(t) / (1.0 - p->exponent);
}

static double zipf_area_inverse(const struct key_picker *p, double area)
{
    if (fabs(1.0 - p->exponent) < 1e-9)
        return exp(area);
    return exp(log1p(area * (1.0 - p->exponent)) / (1.0 - p->exponent));
}

/* A rank from 1 ... count. */
static uint64_t zipf_rank(struct key_picker *p)
{
    for (;;) {
        double area = p->area_last + rng_unit(&p->rng) * (p->area_first - p->area_last);
        double x = zipf_area_inverse(p, area);
        double rank = floor(x + 0.5);

        if (rank < 1.0)
            rank = 1.0;
        if (rank > (double)p->count)
            rank = (double)p->count;
        if (rank - x <= p->squeeze || area >= zipf_area(p, rank + 0.5) - zipf_density(p, rank))
            return (uint64_t)rank;
    }
}

void key_picker_init(struct key_picker *p, enum key_distribution distribution, uint64_t count,
                     double exponent, uint64_t seed, unsigned index, unsigned pickers)
{
    memset(p, 0, sizeof(*p));
    p->distribution = distribution;
    p->count = count;
    p->rng.state = value_mix(value_mix(seed) + index);
    p->next = index % count;
    p->step = pickers;
    p->exponent = exponent;
    p->area_first = zipf_area(p, 1.5) - 1.0;
    p->area_last = zipf_area(p, (double)count + 0.5);
    p->squeeze = 2.0 - zipf_area_inverse(p, zipf_area(p, 2.5) - zipf_density(p, 2.0));
}

uint64_t key_pick(struct key_picker *p)
{
    uint64_t id;

    switch (p->distribution) {
    case KEYS_UNIFORM: break;
    case KEYS_ZIPF:
        /* Scattered, so that hot keys are not neighbours in an index. The multiplier is a prime
         * above 2^32: no key count that is not a multiple of it maps two ranks to one id. */
        return (uint64_t)((u128)zipf_rank(p) * 4294967311u % p->count);
    case KEYS_SEQUENTIAL:
        id = p->next;
        p->next = (p->next + p->step) % p->count;
        return id;
    }
    return rng_below(&p->rng, p->count);
}
