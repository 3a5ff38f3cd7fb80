/* zge_impl.h: what the core's files share. Not for users: see zge.h. */
#ifndef ZGE_IMPL_H
#define ZGE_IMPL_H

#include "zge.h"

#include <string.h>

/* The wire structures are read and written byte by byte through these, so that neither the compiler's
 * padding nor the processor's alignment rules matter. The machine must be little-endian: bulk arrays
 * (indices, biases, multipliers) are used in place. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the core runs on little-endian machines only"
#endif

static inline uint16_t zge_get16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t zge_get32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t zge_get64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline float zge_getf(const uint8_t *p) {
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void zge_put16(uint8_t *p, uint16_t v) { memcpy(p, &v, sizeof v); }
static inline void zge_put32(uint8_t *p, uint32_t v) { memcpy(p, &v, sizeof v); }
static inline void zge_put64(uint8_t *p, uint64_t v) { memcpy(p, &v, sizeof v); }
static inline void zge_count(uint8_t *p) { zge_put64(p, zge_get64(p) + 1); }
static inline void zge_putf(uint8_t *p, float v) { memcpy(p, &v, sizeof v); }

/* Header, 48 bytes. */
enum {
    ZGE_H_MAGIC = 0,       /* 4 bytes */
    ZGE_H_VERSION = 4,     /* u16 */
    ZGE_H_SECTIONS = 6,    /* u16 */
    ZGE_H_BYTES = 8,       /* u32 */
    ZGE_H_ALIGN = 12,      /* u32, 8 .. 64 */
    ZGE_H_GENERATION = 16, /* u64 */
    ZGE_H_CHECKSUM = 24,   /* u32: CRC-32 of header and table with this field zero */
    ZGE_H_FLAGS = 28,      /* u32: 1 = can learn */
    ZGE_H_RESERVED = 32,   /* 16 zero bytes */
    ZGE_H_SIZE = 48
};

/* Section table entry, 16 bytes. */
enum {
    ZGE_T_KIND = 0,     /* u16 */
    ZGE_T_FLAGS = 2,    /* u16: zero */
    ZGE_T_OFFSET = 4,   /* u32 */
    ZGE_T_BYTES = 8,    /* u32 */
    ZGE_T_CHECKSUM = 12, /* u32: CRC-32 of the section */
    ZGE_T_SIZE = 16
};

/* Network section, 64 bytes, then 32 bytes a layer. */
enum {
    ZGE_N_INPUTS = 0,      /* u32 */
    ZGE_N_CLASSES = 4,     /* u16 */
    ZGE_N_LAYERS = 6,      /* u16 */
    ZGE_N_GROUPS = 8,      /* u32: 1 or inputs */
    ZGE_N_HEIGHT = 12,     /* u32 */
    ZGE_N_WIDTH = 16,      /* u32 */
    ZGE_N_CHANNELS = 20,   /* u16 */
    ZGE_N_TASK = 22,       /* u16: 0 table, 1 picture, 2 series */
    ZGE_N_BATCH = 24,      /* u16 */
    ZGE_N_UNKNOWN = 26,    /* u16 */
    ZGE_N_REPLAY = 28,     /* u32 samples */
    ZGE_N_REPLAY_BITS = 32, /* u16: 1, 2, 4 or 8, 0 without replay */
    ZGE_N_FLAGS = 34,      /* u16: 1 class names are integers, 2 feature names follow */
    ZGE_N_BUDGET = 36,     /* u32 bytes the person asked for */
    ZGE_N_SEED = 40,       /* u64 */
    ZGE_N_STEPS = 48,      /* u32 training steps */
    ZGE_N_ACCURACY = 52,   /* f32 test accuracy 0 .. 1, or -1 */
    ZGE_N_SAMPLES = 56,    /* u32 training samples */
    ZGE_N_REPLAY_POOL = 60, /* u8: 0, or 2 where the replay holds means of 2 x 2 places */
    ZGE_N_HEAD = 61,       /* u8: ZGE_HEAD_* */
    ZGE_N_KNOWN = 62,      /* u16: classes that have a name; 0: all */
    ZGE_N_SIZE = 64
};
enum {
    ZGE_L_KIND = 0,      /* u8 */
    ZGE_L_BLOCK = 1,     /* u8 */
    ZGE_L_RESIDUAL = 2,  /* u8 */
    ZGE_L_Z_IN = 3,      /* u8 */
    ZGE_L_INPUTS = 4,    /* u32 */
    ZGE_L_OUTPUTS = 8,   /* u32 */
    ZGE_L_WIDTH = 12,    /* u32 */
    ZGE_L_S_IN = 16,     /* f32 */
    ZGE_L_S_W = 20,      /* f32 */
    ZGE_L_S_OUT = 24,    /* f32; of the head: 1 */
    ZGE_L_RESERVED = 28, /* u32 zero */
    ZGE_L_SIZE = 32
};

/* A layer of the trunk has these instead; inputs and outputs count the values of pictures. */
enum {
    ZGE_P_KIND = 0,     /* u8 */
    ZGE_P_KERNEL = 1,   /* u8 */
    ZGE_P_RESIDUAL = 2, /* u8 zero */
    ZGE_P_Z_IN = 3,     /* u8 zero */
    ZGE_P_INPUTS = 4,   /* u32 */
    ZGE_P_OUTPUTS = 8,  /* u32 */
    ZGE_P_TAPS = 12,    /* u32 weights of a channel going out */
    ZGE_P_S_IN = 16,    /* f32 */
    ZGE_P_S_W = 20,     /* f32: 1; of a mean pool 1 / (height * width) */
    ZGE_P_S_OUT = 24,   /* f32 */
    ZGE_P_STRIDE = 28,  /* u8 */
    ZGE_P_SAME = 29,    /* u8: 1 = same padding, 0 = whole windows only */
    ZGE_P_ADD = 30,     /* u8: 0, or 1 + the trunk layer whose input is added */
    ZGE_P_ZERO = 31,    /* u8 zero */
    ZGE_P_SIZE = 32
};

/* Learner section, 72 bytes, then 8 bytes a layer. */
enum {
    ZGE_K_STEP = 0,      /* u64 learning steps done */
    ZGE_K_SAMPLES = 8,   /* u64 new samples learned */
    ZGE_K_REWIRED = 16,  /* u64 connections replaced */
    ZGE_K_CLAMPED = 24,  /* u64 input values clamped while learning */
    ZGE_K_KEY = 32,      /* u32 key of the generator */
    ZGE_K_CURSOR = 36,   /* u32 next row to rewire, counted over the rewirable layers */
    ZGE_K_RATE = 40,     /* f32 */
    ZGE_K_LEARN = 44,    /* u16 ZGE_LEARN_* */
    ZGE_K_STRATEGY = 46, /* u16 ZGE_REWIRE_* */
    ZGE_K_SWAPS = 48,    /* u8 */
    ZGE_K_KEEP = 49,     /* u8 ZGE_KEEP_* */
    ZGE_K_GATHER = 50,   /* u16 */
    ZGE_K_GATHERED = 52, /* u32 samples gathered for the row under the cursor */
    ZGE_K_FILLED = 56,   /* u32 samples in the replay */
    ZGE_K_ACTIVITY = 60, /* u32 hebbian: sum of the unit's activity over the samples gathered */
    ZGE_K_CORRECT = 64,  /* u64 new samples classified rightly before they were learned */
    ZGE_K_SIZE = 72,
    ZGE_KL_WEIGHT = 0, /* f32: step of a weight, in residual units, for error 1, input 1 and rate 1 */
    ZGE_KL_BIAS = 4,   /* f32: step of a bias, in bias units, likewise */
    ZGE_KL_SIZE = 8
};

/* Traces section, 8 bytes, then i32 sums [rows], i8 queries [parts][rows], i8 keys [parts][inputs], with the most
 * rows and inputs that a sparse layer has. */
enum {
    ZGE_A_PARTS = 0, /* u16 parts of a sketch, 1 .. 64 */
    ZGE_A_HELD = 2,  /* u16 of them filled */
    ZGE_A_NEXT = 4,  /* u16 the part to fill next */
    ZGE_A_ZERO = 6,  /* u16 zero */
    ZGE_A_SIZE = 8
};
enum { ZGE_MAX_PARTS = 64 };
/* Watch section, 144 bytes. Fractions are 16.16 fixed point. */
enum {
    ZGE_W_EPOCH = 0,        /* u32 worlds that were left behind */
    ZGE_W_TRIAL = 4,        /* u16: 1 while what is learned in a new world is on trial, 2 where inputs are strange */
    ZGE_W_CAUTION = 6,      /* u16: halvings of the rate, 0 .. 6 */
    ZGE_W_AGE = 8,          /* u32 steps since drift was confirmed, up to ZGE_W_LENGTH: quiet */
    ZGE_W_RATE = 12,        /* f32: least rate while plastic, else 0 */
    ZGE_W_BEST = 16,        /* u32 anchors that the best state accepted in this epoch had right */
    ZGE_W_LIMIT = 20,       /* u32 anchors that this epoch may have */
    ZGE_W_SCORED = 24,      /* u32 anchors scored in this cycle */
    ZGE_W_PATIENCE = 28,    /* u32 cycles that ended below the margin, 0 .. 4 */
    ZGE_W_CERTAINTY = 32,   /* u32 mean score of anchors, 0: not known yet */
    ZGE_W_RECENT = 36,      /* u32 share of the last samples that were right */
    ZGE_W_WARNINGS = 40,    /* u64 */
    ZGE_W_CONFIRMED = 48,   /* u64 drifts */
    ZGE_W_ACCEPTED = 56,    /* u64 states */
    ZGE_W_ROLLED_BACK = 64, /* u64 states */
    ZGE_W_REJECTED = 72,    /* u64 trials */
    ZGE_W_WATCHED = 80,     /* u64 samples without a label */
    ZGE_W_USUAL = 88,       /* u32 share of samples that are right in this world, 0: not known */
    ZGE_W_CALM = 92,        /* u32 caution of a quiet world, 0 .. 6 */
    ZGE_W_ERROR = 96,       /* detector of errors */
    ZGE_W_DOUBT = 120,      /* detector of doubtful inputs */
    ZGE_W_SIZE = 144,
    ZGE_W_LENGTH = 2000, /* steps of plasticity */
    ZGE_W_NOVEL = 1000,  /* of which a new class, or strange inputs with few more errors, need the second half */
    ZGE_W_CAREFUL = 6,
    ZGE_W_PATIENT = 4
};
/* A detector, 24 bytes. */
enum {
    ZGE_D_SEEN = 0,   /* u32 values in the mean */
    ZGE_D_HELD = 4,   /* u32 values for which a confirmed change stays */
    ZGE_D_TOTAL = 8,  /* u64 sum of the values */
    ZGE_D_SUM = 16,   /* u32 what they exceeded their mean by */
    ZGE_D_ZERO = 20,  /* u32 zero */
    ZGE_D_SIZE = 24
};
/* Anchors section: 16 bytes, labels, a byte of flags each, data. */
enum {
    ZGE_G_ROOM = 0,    /* u32 anchors that there is room for */
    ZGE_G_FILLED = 4,  /* u32 anchors */
    ZGE_G_CURSOR = 8,  /* u32 the one to be scored next */
    ZGE_G_TRIED = 12,  /* u32 samples held back in a trial */
    ZGE_G_SIZE = 16,
    ZGE_G_FEWEST = 100, /* below which the guard decides nothing */
    ZGE_G_MOST = 65535
};

/* Section of the analytic head: 16 bytes, then i64 scores [classes], u32 counts [classes], i32 sums and
 * values [classes][width], i32 triangle [width (width + 1) / 2]. */
enum {
    ZGE_LDA_SCALE = 0,  /* u32 halvings of the triangle alone */
    ZGE_LDA_CURSOR = 4, /* u32 next step of the solve: class * width + feature */
    ZGE_LDA_ROUNDS = 8, /* u32 rounds of the solve */
    ZGE_LDA_PACE = 12,  /* u32 steps of the solve a tick */
    ZGE_LDA_SIZE = 16,
    ZGE_ANALYTIC_PACE = 4096 /* most of them */
};

/* Section of the samples that wait for their label: 32 bytes, then 16 bytes an entry, then the samples. */
enum {
    ZGE_WAIT_DROPPED = 0,  /* u64 samples that went for a newer one */
    ZGE_WAIT_UNKNOWN = 8,  /* u64 labels for ids that were not there */
    ZGE_WAIT_HELD = 16,    /* u64 samples that came in */
    ZGE_WAIT_ENTRIES = 24, /* u32 room */
    ZGE_WAIT_RESERVED = 28, /* u32 zero */
    ZGE_WAIT_SIZE = 32
};
enum {
    ZGE_WAITING_ORDER = 0, /* u64: ZGE_WAIT_HELD when it came; 0: free */
    ZGE_WAITING_ID = 8,    /* u64 */
    ZGE_WAITING_SIZE = 16
};

/* Weights are learned as v = 16 * weight + residual, within +-127 * 16. */
enum { ZGE_RESIDUAL_BITS = 4, ZGE_V_MAX = 127 * 16 };

/* Fills the room behind a name, and that of a class which has none yet: no byte of UTF-8. */
enum { ZGE_NO_NAME = 0xff };

static inline uint32_t zge_round4(uint32_t bytes) { return (bytes + 3u) & ~3u; }

/* The input that weight `i` of row `row` looks at. */
static inline uint32_t zge_input_of(const zge_layer *l, uint32_t row, uint32_t i) {
    if (l->indices == NULL) {
        return i;
    }
    uint32_t at = row * l->per_row + i / l->block;
    return (l->indices[at] & l->index_mask) * l->block + i % l->block;
}

/* The residual bits, -8 .. 7, of weight number `at` of a layer. */
static inline int32_t zge_residual(const zge_layer *l, size_t at) {
    if (l->residual == ZGE_R_INDEX) {
        return (int16_t)l->indices[at] >> 12;
    }
    const uint32_t half = at & 1u ? l->nibbles[at / 2] >> 4 : l->nibbles[at / 2] & 15u;
    return (int32_t)(half ^ 8u) - 8;
}

/* Counter-based generator: a keyed integer hash (the multipliers are those of C. Wellons' "lowbias32",
 * https://nullprogram.com/blog/2018/07/31/). Its high bits are the good ones. */
static inline uint32_t zge_mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    return x * 0x846ca68bu;
}
static inline uint32_t zge_random(uint32_t base, uint32_t i) { return zge_mix(base + i * 0x9e3779b9u); }

/* Start of a stream of numbers of one step. */
static inline uint32_t zge_stream(uint32_t key, uint64_t step, uint32_t stream) {
    uint32_t x = zge_mix(key ^ (uint32_t)step);
    x = zge_mix(x ^ (x >> 16) ^ (uint32_t)(step >> 32));
    return zge_mix(x ^ (x >> 15) ^ (stream * 0x9e3779b9u));
}
/* Streams of random numbers of one step; a layer's own are ZGE_R_LAYER + 4 * layer + 0 .. 2. */
enum { ZGE_R_DRAW = 0, ZGE_R_KEEP = 1, ZGE_R_SOFTMAX = 2, ZGE_R_GROW = 3, ZGE_R_SKETCH = 4, ZGE_R_HOLD = 5, ZGE_R_LAYER = 8 };
enum { ZGE_R_WEIGHT = 0, ZGE_R_BIAS = 1, ZGE_R_ERROR = 2 };

static inline uint32_t zge_key(const zge_model *m) { return zge_get32(m->learner + ZGE_K_KEY); }
static inline uint64_t zge_now(const zge_model *m) { return zge_get64(m->learner + ZGE_K_STEP); }

/* Uniform in 0 .. n - 1. */
static inline uint32_t zge_below(uint32_t random, uint32_t n) {
    return (uint32_t)(((uint64_t)random * n) >> 32);
}

/* Round half to even of |v| < 2^22, by the one addition that does it in float32. */
static inline float zge_rne(float v) {
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    return (v + magic) - magic;
}

/* Clamping before rounding gives what clamping after it gives: 0 and 255 are whole. */
static inline uint8_t zge_requantize(int32_t acc, float multiplier) {
    float v = (float)acc * multiplier;
    v = v > 0.0f ? v : 0.0f;
    v = v < 255.0f ? v : 255.0f;
    return (uint8_t)(int32_t)zge_rne(v);
}

/* How far a step moves, as integers: v -= (g * mantissa + noise) >> shift. */
typedef struct zge_rate {
    int32_t mantissa; /* 0 .. 255 */
    uint32_t shift;   /* 0 .. 30 */
} zge_rate;

typedef struct zge_update {
    zge_rate weight, bias;
    uint32_t noise;      /* stream of the weights' rounding */
    uint32_t bias_noise; /* stream of the biases' rounding */
} zge_update;

/* A column of the batch: where a sample comes from. The first three are inputs of the network, raw or as
 * codes; remembered ones are features, packed. */
enum { ZGE_C_F32, ZGE_C_U8, ZGE_C_CODES, ZGE_C_REPLAY, ZGE_C_NONE };
typedef struct zge_column {
    uint32_t kind;
    const void *data;
} zge_column;

/* What a kernel variant computes. S: samples side by side, a power of two up to ZGE_MAX_BATCH. */
typedef struct zge_kernels {
    const char *name;
    int32_t (*usable)(void);
    /* Quantize `count` raw values of a column from value `from` on. Returns how many were clamped. */
    uint32_t (*fetch)(const zge_model *m, const zge_column *column, uint32_t from, uint32_t count, uint8_t *out);
    /* Row y of a trunk layer's output, out [out_width][out_channels], from the rows that it holds. `added`:
     * row y of the picture that is added, or null. Not for mean pools. */
    void (*picture)(const zge_conv *l, uint32_t y, const uint8_t *added, uint8_t *out);
    /* Quantize n columns into layer 0's x [features][S]; columns n .. S-1, and those of kind NONE, become its
     * zero point. Returns how many values were clamped. */
    uint32_t (*quantize)(const zge_model *m, const zge_column *columns, uint32_t n, uint32_t s);
    /* y [outputs][S] = requantized l->x [inputs][S] times weights. */
    void (*hidden)(const zge_layer *l, uint32_t s, uint8_t *y);
    /* logits [outputs][S], not requantized. */
    void (*head)(const zge_layer *l, uint32_t s, int32_t *logits);
    /* delta [inputs][S] of the units below `l` from its own error; back [inputs][S] is scratch. Returns
     * the power of two that was divided by. `noise`: stream of the rounding. */
    uint32_t (*error)(const zge_layer *l, uint32_t s, uint32_t noise, int32_t *back, int8_t *delta);
    /* One stochastic step of every weight and bias. */
    void (*update)(const zge_layer *l, uint32_t s, const zge_update *u);
    /* grad [inputs] += error of `row` times every input. */
    void (*gradient)(const zge_layer *l, uint32_t row, uint32_t s, int32_t *grad);
    /* Pack the first n columns of the input as replay samples, out [n]; the last of equal ones stays. */
    void (*pack)(const zge_model *m, uint32_t s, uint32_t n, uint8_t *const *out);
} zge_kernels;

const zge_kernels *zge_kernels_now(void);

/* CRC-32 (IEEE 802.3), as zlib's crc32. */
uint32_t zge_crc32(uint32_t crc, const uint8_t *p, size_t n);

/* Softmax over column `column` of logits [classes][S]: numerators into `out` [classes] (may be null; the
 * winner's is 32,768), their sum returned; *best gets the winner. */
uint32_t zge_softmax(const zge_model *m, uint32_t s, uint32_t column, uint32_t *best, uint16_t *out);

/* Entry i, 0 .. 255, of the softmax's table: round(32768 * exp(-i / 16)). */
uint32_t zge_exponential(uint32_t i);

/* How a step learns: its rate, blocks replaced at a visit, samples gathered before one. */
typedef struct zge_pace {
    float rate;
    uint32_t swaps, gather;
} zge_pace;

/* New samples of a step that are held back as anchors: a bit each, their slots, and which of them are of classes that
 * anchors lacked. */
typedef struct zge_held {
    uint64_t mask, lacked;
    uint32_t slot[ZGE_MAX_BATCH];
} zge_held;

/* Rewiring (zge_rewire.c): the row whose turn it is. */
typedef struct zge_turn {
    const zge_layer *layer;
    uint32_t index;  /* of the layer */
    uint32_t row;    /* in the layer */
    uint32_t cursor; /* the row's number over all sparse layers */
    uint32_t swaps, gather; /* blocks replaced at a visit, samples gathered before it */
    uint64_t held;          /* new samples that teach nothing, a bit each */
} zge_turn;
/* 1 where the arena has what a strategy needs. */
int32_t zge_rewire_can(const zge_model *m, uint32_t strategy);
/* Forget what was gathered for the row under the cursor. */
void zge_rewire_restart(const zge_model *m);
/* Whose turn it is; 0 where nothing is rewired. */
int32_t zge_rewire_turn(const zge_model *m, const zge_pace *pace, uint64_t held, zge_turn *turn);
/* Gather what the strategy scores growth by from the first `total` columns, of these labels; before the update. */
void zge_rewire_gather(const zge_model *m, const zge_turn *turn, const uint16_t *labels, uint32_t total, uint32_t s);
/* Count the samples; visit the row where they suffice, and move on. Returns the connections replaced. */
uint32_t zge_rewire_end(const zge_model *m, const zge_turn *turn, uint32_t total);

/* The trunk (zge_trunk.c). Read and check record `i` of a network whose trunk has `i` layers so far. */
zge_status zge_trunk_read(zge_model *m, const uint8_t *record, uint32_t i);
/* Count the rows that each trunk layer holds; the bytes that the trunk works in. */
uint64_t zge_trunk_plan(zge_model *m);
/* Place the trunk's memory, from `at` on. */
void zge_trunk_place(zge_model *m, uint8_t *at);
/* Columns of the batch into layer 0's x: through the trunk where there is one. As `quantize` above. */
uint32_t zge_take(const zge_model *m, const zge_column *columns, uint32_t n, uint32_t s);

/* Score of the winner, of 32,768, from the sum that zge_softmax gives. */
static inline uint32_t zge_score(uint32_t sum) { return (32768u * 32768u + sum / 2) / sum; }

/* `part` of `all` in 16.16 fixed point. */
static inline uint32_t zge_share_of(uint32_t part, uint32_t all) {
    return (uint32_t)(((uint64_t)(part < all ? part : all) << 16) / all);
}

/* Drift (zge_watch.c). One value of a detector; 1 where it confirms a change. */
uint32_t zge_detect(uint8_t *detector, uint32_t value, uint32_t pass, uint32_t bound);
/* A labelled sample: its score of 32,768, the share of its inputs that were clamped. 0, 1: a warning begins,
 * 2: drift. */
uint32_t zge_watch_label(uint8_t *watch, uint32_t correct, uint32_t score, uint32_t clamped);
/* Whether inputs are strange, in a learner that is careful. Only anchors tell them from a network that wrong labels
 * made unsure. */
uint32_t zge_watch_strange(const uint8_t *watch);
void zge_watch_start(uint8_t *watch, uint32_t age); /* plastic from here on: age 0, or ZGE_W_NOVEL */
void zge_watch_age(uint8_t *watch);   /* one step older */
void zge_watch_quiet(uint8_t *watch); /* no longer plastic */
zge_status zge_watch_check(const zge_model *m, zge_fault *f);

/* What plasticity and caution make of it. */
void zge_pace_now(const zge_model *m, zge_pace *pace);

/* The guard (zge_guard.c). Which of n samples are held back as anchors, into `held`, all zero; the data of an
 * anchor. */
void zge_hold(const zge_model *m, const uint16_t *y, uint32_t n, zge_held *held);
uint8_t *zge_anchor_at(const zge_model *m, uint32_t slot);
/* The end of a step of n new samples, S side by side: watch, score anchors, decide. */
void zge_guard_tick(zge_model *m, uint32_t s, const uint16_t *y, uint32_t n, const zge_held *held, uint32_t clamped,
                    zge_tick *tick);
uint64_t zge_snapshot_bytes(const zge_model *m);
zge_status zge_guard_check(const zge_model *m, zge_fault *f);

/* Every weight, index, bias and multiplier of a layer behind the trunk (zge_arena.c); `record`: its number. */
zge_status zge_check_layer(const zge_model *m, const zge_layer *l, uint32_t record, zge_fault *f);

/* The analytic head (zge_analytic.c). Bytes of its section; whether it is sound, and the byte nearest to
 * where it is not; samples of the batch into the statistics, and some steps of the solve. */
uint64_t zge_analytic_bytes(uint32_t classes, uint32_t width);
zge_status zge_analytic_check(const zge_model *m, uint32_t *offset);
void zge_analytic_learn(zge_model *m, uint32_t s, const uint16_t *labels, uint32_t n);

/* Samples that wait for their label (zge_pending.c): whether the section is sound. */
zge_status zge_pending_check(const zge_model *m, uint32_t *offset);

/* A step with samples of any kind, as zge_learner_step. */
zge_status zge_step_any(zge_model *m, uint32_t kind, const void *x, const uint16_t *y, uint32_t n, uint32_t replay,
                        int32_t *classes, zge_tick *tick);

/* The least bias that a row can have: a class that has it was never learned. */
static inline int32_t zge_floor_bias(const zge_layer *head) {
    return -(INT32_MAX - (int32_t)head->width * 255 * 127);
}

/* Finite and above zero, without libm. */
static inline int32_t zge_good_scale(float v) { return v > 0.0f && v <= 3.0e38f; }

/* Smallest supported S for n samples. */
uint32_t zge_side(const zge_model *m, uint32_t n);
zge_status zge_check_finite(const zge_model *m, const float *x, uint32_t n);
void zge_forward(const zge_model *m, uint32_t s);

#endif
