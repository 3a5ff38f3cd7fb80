/* zge.h: the whole public face of the zgedge core.
 *
 * A zero-growth network lives in one block of memory, the arena, which is also the file (docs/format.md).
 * This library opens an arena, predicts, learns and rewires inside it. It never allocates, keeps no
 * global state but the chosen kernel variant, prints nothing, and calls nothing of libc but memcpy and
 * memset. The arithmetic is that of docs/arithmetic.md: the same arena and the same stream of samples
 * leave the same bytes on every processor and with every kernel variant.
 *
 * MEMORY. The caller owns everything. `arena` must stay where it is for as long as its handle is used,
 * must be aligned to 8 bytes (64 is fastest), and must not be written by others while a call runs. A
 * handle (zge_model) holds pointers into the arena and nothing that must be saved; it may be copied
 * only by opening the arena again. One handle serves one thread at a time.
 *
 * TRUST. zge_model_open checks the whole arena: magic, version, checksums, section bounds and overlap,
 * shapes, every index, every scale. What passed is trusted: predict and learn check only their
 * arguments. An arena that something else changed afterwards must be opened again.
 *
 * ERRORS. Every call that can fail returns a zge_status; 0 is success. A failed call has changed
 * nothing, unless its text says otherwise.
 */
#ifndef ZGE_H
#define ZGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this library (major << 16 | minor << 8 | patch), and of the files that it reads. */
#define ZGE_VERSION 0x000500u
#define ZGE_FORMAT_VERSION 1u

/* Limits of the format. */
#define ZGE_MAX_INPUTS 65536u  /* inputs of the network, and units of a layer */
#define ZGE_MAX_CLASSES 4096u  /* classes; at least 2 */
#define ZGE_MAX_LAYERS 8u      /* layers behind the trunk; at least 1 */
#define ZGE_MAX_TRUNK 32u      /* picture layers before them */
#define ZGE_MAX_CHANNELS 4096u /* channels that a trunk layer gives */
#define ZGE_MAX_TAPS 4096u     /* weights of a channel of a trunk layer */
#define ZGE_MAX_ANALYTIC 511u /* inputs of an analytic head, */
#define ZGE_MAX_ANALYTIC_CLASSES 256u /* and its classes */
#define ZGE_MAX_PENDING 4096u /* samples that wait for their label */
#define ZGE_MAX_BATCH 64u      /* samples of one learning step; a power of two */
#define ZGE_MAX_ARENA 0x40000000u /* bytes */

#if defined(_WIN32)
#define ZGE_API __declspec(dllexport)
#elif defined(__GNUC__)
#define ZGE_API __attribute__((visibility("default")))
#else
#define ZGE_API
#endif

typedef enum zge_status {
    ZGE_OK = 0,
    ZGE_E_ARGUMENT = -1,   /* a null pointer, or a number outside its documented range */
    ZGE_E_MAGIC = -2,      /* the bytes are not a zge arena */
    ZGE_E_VERSION = -3,    /* the format is newer (or older) than this library reads */
    ZGE_E_SIZE = -4,       /* fewer or more bytes than the header says: cut or padded */
    ZGE_E_CHECKSUM = -5,   /* bytes differ from their checksum, or padding is not zero */
    ZGE_E_SECTION = -6,    /* a section is unknown, missing, twice, unaligned, overlaps, leaves the arena
                              or has another length than the shapes demand */
    ZGE_E_SHAPE = -7,      /* a size or layer is outside the limits, or layers do not chain */
    ZGE_E_KIND = -8,       /* a layer kind that this library does not run */
    ZGE_E_INDEX = -9,      /* a connection's index is not below the layer's inputs */
    ZGE_E_DUPLICATE = -10, /* a row has two connections to one input */
    ZGE_E_SCALE = -11,     /* a scale or multiplier is not finite and above zero */
    ZGE_E_STATE = -12,     /* learner state, replay or names are inconsistent */
    ZGE_E_ALIGN = -13,     /* the arena does not start at a multiple of 8 bytes */
    ZGE_E_INPUT = -14,     /* a sample holds NaN or an infinity */
    ZGE_E_LABEL = -15,     /* a label is not below the number of classes */
    ZGE_E_NO_LEARNING = -16, /* the arena was written without what learning needs */
    ZGE_E_VARIANT = -17,     /* no such kernel variant, or this processor lacks its instructions */
    ZGE_E_NO_GUARD = -18,    /* the arena has no anchors to judge by and no accepted state to go back to */
    ZGE_E_ROOM = -19,        /* no room is planned for another class, or for a name so long */
    ZGE_E_NAME = -20,        /* a class name is empty, no UTF-8, or another class has it */
    ZGE_E_ID = -21           /* no sample with this id waits for its label */
} zge_status;

/* Section kinds of the arena. */
enum {
    ZGE_S_NET = 1,         /* shapes and scales */
    ZGE_S_NAMES = 2,       /* class names, then feature names */
    ZGE_S_INPUT = 3,       /* input scales and offsets */
    ZGE_S_WEIGHTS = 4,     /* int8, all layers */
    ZGE_S_INDICES = 5,     /* uint16, the sparse layers */
    ZGE_S_ROWS = 6,        /* bias and multiplier per row, all layers */
    ZGE_S_ACTIVATIONS = 7, /* scratch of prediction */
    ZGE_S_RESIDUAL = 8,    /* learning: 4 more bits per weight, where index bits do not hold them */
    ZGE_S_SCRATCH = 9,     /* learning: errors and gradient */
    ZGE_S_REPLAY = 10,     /* learning: remembered samples */
    ZGE_S_LEARNER = 11,    /* learning: counters, rates, generator */
    ZGE_S_ANCHORS = 12,    /* learning: samples that nothing is learned from, to judge by */
    ZGE_S_WATCH = 13,      /* learning: drift, plasticity, the guard */
    ZGE_S_SNAPSHOT = 14,   /* learning, with anchors: the state that was accepted last */
    ZGE_S_ANALYTIC = 15,   /* learning: statistics of the analytic head, and its solve */
    ZGE_S_TRACES = 16,     /* learning: sketches of the attention strategy */
    ZGE_S_PENDING = 17     /* learning: samples that wait for their label */
};

/* Layer kinds. */
enum {
    ZGE_L_SPARSE = 1,  /* constant fan-in per row, one index for a block of B inputs */
    ZGE_L_DENSE = 2,   /* every input */
    ZGE_L_CONV1D = 16, /* reserved */
    ZGE_L_CONV = 17,      /* trunk: the same taps at every place of a picture, all channels */
    ZGE_L_DEPTHWISE = 18, /* trunk: likewise, each channel its own */
    ZGE_L_MAX_POOL = 19,  /* trunk: the largest value of a window */
    ZGE_L_MEAN_POOL = 20, /* trunk, its last layer: the mean of the whole picture */
    ZGE_L_SPIKING = 32 /* reserved */
};

/* Where a layer's residual weight bits live. */
enum { ZGE_R_NONE = 0, ZGE_R_INDEX = 1, ZGE_R_SECTION = 2 };

/* How the last layer learns. */
enum {
    ZGE_HEAD_SOFTMAX = 0, /* by gradient, as all layers do */
    ZGE_HEAD_ANALYTIC = 1 /* streaming linear discriminants; the layers before it stay as they are */
};

/* Rewiring strategies of the learner. */
enum {
    ZGE_REWIRE_STATIC = 0, /* none */
    ZGE_REWIRE_SET = 1,    /* drop the smallest, grow at random (Mocanu et al. 2018) */
    ZGE_REWIRE_RIGL = 2,   /* drop the smallest, grow by gradient (Evci et al. 2020) */
    ZGE_REWIRE_HEBBIAN = 3,      /* ..., grow by covariance of input and unit */
    ZGE_REWIRE_THREE_FACTOR = 4, /* ..., grow by activity times an error that random wires bring */
    ZGE_REWIRE_ATTENTION = 5     /* ..., grow by chance, likelier where sketches agree; needs traces */
};

/* What of the network learns. */
enum {
    ZGE_LEARN_ALL = 0,
    ZGE_LEARN_HEAD = 1,  /* only the last layer's weights; no rewiring */
    ZGE_LEARN_NONE = 2   /* frozen: a learning step predicts, counts, and changes nothing else */
};

/* Which new samples a full replay takes; classes stay balanced in both. */
enum {
    ZGE_KEEP_FADE = 0,     /* each: the older a sample is, the likelier it has gone */
    ZGE_KEEP_RESERVOIR = 1 /* fewer and fewer: every sample of the stream is as likely to be there */
};

/* What an arena keeps of a layer. A program that carries one network as constants and never learns makes
 * it const, so that weights stay in read-only memory. */
#define ZGE_KEPT

/* One layer of an open arena: pointers into it. Read only for callers. */
typedef struct zge_layer {
    uint32_t kind, block, inputs, outputs;
    uint32_t width;      /* weights per row: the fan-in */
    uint32_t per_row;    /* indices per row: width / block; 0 in a dense layer */
    uint32_t residual;   /* ZGE_R_* */
    uint32_t index_mask; /* an index's bits; those above may hold residual bits */
    uint32_t index_bits;
    int32_t z_in;        /* zero point of the inputs */
    float s_in, s_w, s_out;
    ZGE_KEPT int8_t *weights;   /* [outputs][width] */
    ZGE_KEPT uint16_t *indices; /* [outputs][per_row], or null */
    ZGE_KEPT int32_t *bias;     /* [outputs] */
    ZGE_KEPT float *multiplier; /* [outputs] */
    ZGE_KEPT uint8_t *nibbles;  /* residual section: 4 bits a weight, low half first; or null */
    uint8_t *x;                 /* [inputs][S] activations coming in, S samples side by side */
    int8_t *delta;              /* [outputs][S] error of the outputs; null without learning */
} zge_layer;

/* One layer of the trunk: pictures in, pictures out. Read only for callers. The picture is never whole in
 * memory: `held` of its rows are, row y in slot y % held, which is all that the layers after need. */
typedef struct zge_conv {
    uint32_t kind, kernel, stride;
    uint32_t height, width, channels;             /* of the picture coming in */
    uint32_t out_height, out_width, out_channels; /* of the one going out */
    uint32_t top, left;        /* rows above and columns before the picture that a window may cover */
    uint32_t taps;             /* weights of a channel going out; 0 in a pool */
    uint32_t add;              /* 0, or 1 + the trunk layer whose input is added to the output */
    uint32_t held;             /* rows in memory */
    float s_in, s_w, s_out;
    const int8_t *weights;     /* [out_channels][kernel][kernel][channels]; depthwise [kernel][kernel][channels] */
    const int32_t *bias;       /* [out_channels], or null */
    const float *multiplier;   /* [out_channels], or null */
    uint8_t *rows;             /* [held][width][channels] */
} zge_conv;

/* A handle on an open arena. Fields are for reading; zge_model_open fills them. */
typedef struct zge_model {
    uint8_t *arena;
    uint32_t bytes;
    uint32_t inputs, classes, layers, groups;
    uint32_t trunk;          /* picture layers before the layers; often 0 */
    uint32_t trunk_bytes;    /* memory that they work in */
    uint32_t features;       /* inputs of layer[0]: what the trunk gives, or `inputs` */
    uint32_t batch;          /* most samples of one learning step; 1 without learning */
    uint32_t unknown;        /* below this score (of 32,768) a prediction is unknown; 0: never */
    uint32_t replay_samples, replay_bits, replay_stride;
    uint32_t replay_pool;    /* 2 where the replay holds means of 2 x 2 places, else 0 */
    int32_t learning;        /* 1 where the arena can learn */
    uint32_t head;           /* ZGE_HEAD_* */
    uint32_t known;          /* classes that have a name; the others wait for one */
    int32_t spare;           /* 1 where classes were planned that had no name at training */
    uint8_t *net;            /* the network section */
    uint8_t *names;          /* the names section */
    uint8_t *head_record;    /* the last layer's record in the network section */
    uint8_t *analytic;       /* the analytic head's section, or null */
    uint8_t *pending;        /* the section of samples that wait for their label, or null */
    uint32_t pending_entries; /* its room */
    const float *input_scale;  /* [groups] steps per unit of the raw value */
    const float *input_center; /* [groups] raw value at the zero point */
    int32_t *logits;         /* [classes][S] */
    int32_t *back;           /* [widest hidden][S] */
    int32_t *grad;           /* [widest rewirable inputs] */
    uint16_t *replay_counts; /* [classes] samples held of each class */
    uint8_t *replay_labels;  /* [replay_samples], 1 byte each, 2 where classes > 256 */
    uint8_t *replay_data;    /* [replay_samples][replay_stride] */
    uint8_t *learner;        /* the learner section; see docs/format.md */
    uint32_t parts;          /* of a sketch; 0 without traces */
    uint32_t trace_bytes;
    uint8_t *traces;         /* the traces section, or null */
    int32_t *query;          /* of traces: [most rows of a sparse layer] */
    int8_t *queries, *keys;  /* of traces: [parts][rows], [parts][inputs] of the layer under the cursor */
    uint32_t anchors;        /* anchors that there is room for; 0: none */
    uint8_t *anchor_head, *anchor_labels, *anchor_flags; /* see docs/format.md; labels as in the replay */
    uint8_t *anchor_data;    /* [anchors][replay_stride], packed as the replay's */
    uint8_t *watch;          /* the watch section, or null */
    uint8_t *snapshot;       /* the snapshot section, or null */
    int32_t *sums;           /* [channels] of a mean pool, or null */
    uint8_t *row;            /* [out_width][out_channels] of the last trunk layer where batch > 1, or null */
    zge_layer layer[ZGE_MAX_LAYERS];
    zge_conv conv[ZGE_MAX_TRUNK];
} zge_model;

/* Where a check failed. */
typedef struct zge_fault {
    zge_status status;
    uint32_t section; /* ZGE_S_*, 0: the header or the table */
    uint32_t layer;   /* for faults of a layer: its record, those of the trunk first */
    uint32_t offset;  /* byte in the arena nearest to the fault */
} zge_fault;

/* What a learning step reports. */
typedef struct zge_tick {
    uint32_t correct;  /* of the new samples, classified rightly before they were learned */
    uint32_t rewired;  /* connections replaced */
    uint32_t clamped;  /* input values outside of what the input scale can express */
    uint32_t replayed; /* samples drawn from the replay */
    uint32_t anchored; /* new samples that were held back as anchors and not learned */
    uint32_t drift;    /* 1: a warning began, 2: in this tick drift was confirmed, or a class new; else 0 */
    uint32_t guard;    /* 1: the state was accepted, 2: it was rolled back in this tick; else 0 */
} zge_tick;

/* How a learner learns. See zge_learner_configure. */
typedef struct zge_config {
    float rate;              /* learning rate, 0 < rate <= 8, in units of the float network */
    uint32_t learn;          /* ZGE_LEARN_* */
    uint32_t strategy;       /* ZGE_REWIRE_* */
    uint32_t swaps;          /* blocks replaced at a visit of a row, 0..255; 0: none */
    uint32_t gather;         /* samples whose gradient a row gathers before its visit, 1..4096 */
    uint32_t keep;           /* ZGE_KEEP_* */
} zge_config;

/* Library version, and sizeof(zge_model) for callers that cannot include this header. */
ZGE_API uint32_t zge_version(void);
ZGE_API size_t zge_model_bytes(void);

/* English text of a status; never null, also for numbers that are none. */
ZGE_API const char *zge_status_text(int32_t status);

/* Check all of an arena of `bytes` bytes and fill `m`. `fault` may be null.
 * Fails with any of ZGE_E_ARGUMENT .. ZGE_E_ALIGN. `m` is not usable after a failure. */
ZGE_API zge_status zge_model_open(zge_model *m, void *arena, size_t bytes, zge_fault *fault);

/* Make the arena a valid file again after learning: scratch is zeroed, the generation counts one up
 * and all checksums are renewed. Copy or write the arena's bytes after this call. */
ZGE_API zge_status zge_model_seal(zge_model *m);

/* Classify `n` samples.
 *   x       [n][inputs] raw values as the person has them, float32 or uint8
 *   classes [n] index of the largest logit, the lowest index where several are equal; -1 (unknown) where
 *           the score is below the arena's threshold
 *   scores  [n] softmax of that class times 32,768; may be null
 * Fails: ZGE_E_ARGUMENT; ZGE_E_INPUT where a sample holds NaN or infinity: the full batches before its own
 * are done then. */
ZGE_API zge_status zge_model_predict_f32(zge_model *m, const float *x, uint32_t n, int32_t *classes,
                                         uint16_t *scores);
ZGE_API zge_status zge_model_predict_u8(zge_model *m, const uint8_t *x, uint32_t n, int32_t *classes,
                                        uint16_t *scores);

/* Raw integer logits, logits [n][classes], and the integer softmax, scores [n][classes], of which each
 * is a share of 32,768. Errors as above. */
ZGE_API zge_status zge_model_logits_f32(zge_model *m, const float *x, uint32_t n, int32_t *logits);
ZGE_API zge_status zge_model_scores_f32(zge_model *m, const float *x, uint32_t n, uint16_t *scores);

/* Set what zge_config describes. The values are kept in the arena. Another strategy than before begins with an
 * empty row: what the one before gathered is forgotten.
 * Fails: ZGE_E_ARGUMENT, also where a strategy needs traces that the arena was not planned with;
 * ZGE_E_NO_LEARNING. */
ZGE_API zge_status zge_learner_configure(zge_model *m, const zge_config *config);
ZGE_API zge_status zge_learner_config(const zge_model *m, zge_config *config);

/* One learning step (a tick): predict `n` new samples, learn from them together with up to `replay`
 * samples drawn from the replay, rewire at most one row, remember the new samples.
 *   x [n][inputs] raw values; y [n] classes; n >= 1, n + replay <= batch. Samples are drawn from the replay
 *   with repetition; none where it holds none or learning is frozen
 *   classes [n] what was predicted before learning; may be null
 *   tick may be null
 * Fails: ZGE_E_ARGUMENT, ZGE_E_NO_LEARNING, ZGE_E_LABEL, ZGE_E_INPUT (nothing learned). */
ZGE_API zge_status zge_learner_step_f32(zge_model *m, const float *x, const uint16_t *y, uint32_t n,
                                        uint32_t replay, int32_t *classes, zge_tick *tick);
ZGE_API zge_status zge_learner_step_u8(zge_model *m, const uint8_t *x, const uint16_t *y, uint32_t n,
                                       uint32_t replay, int32_t *classes, zge_tick *tick);

/* Delayed labels. hold: predict a sample and keep it under an id until its label comes; where the table is
 * full the oldest one goes, and one of the same id is replaced. settle: learn the sample of that id with
 * `replay` remembered ones as zge_learner_step does, and free its place.
 *   x [inputs] raw values; class: what was predicted (settle: what is predicted now), may be null
 * Fails: ZGE_E_ARGUMENT (also where no such table is planned), ZGE_E_NO_LEARNING, ZGE_E_INPUT, ZGE_E_LABEL
 * (the sample stays), ZGE_E_ID (counted). */
ZGE_API zge_status zge_learner_hold_f32(zge_model *m, uint64_t id, const float *x, int32_t *class_);
ZGE_API zge_status zge_learner_hold_u8(zge_model *m, uint64_t id, const uint8_t *x, int32_t *class_);
ZGE_API zge_status zge_learner_settle(zge_model *m, uint64_t id, uint16_t y, uint32_t replay, int32_t *class_,
                                      zge_tick *tick);

/* Give the next spare class a name: UTF-8, `bytes` of it, without a zero byte. *number gets its number. It
 * is predicted from when it was learned.
 * Fails: ZGE_E_ARGUMENT, ZGE_E_NO_LEARNING, ZGE_E_ROOM, ZGE_E_NAME. */
ZGE_API zge_status zge_learner_add_class(zge_model *m, const char *name, uint32_t bytes, uint32_t *number);

/* Analytic head: finish the round of the solve that is under way and `rounds` - 1 more, 1..4,096; weights are
 * renewed after each. Nothing happens while there is no sample.
 * Fails: ZGE_E_ARGUMENT (also where the head is another), ZGE_E_NO_LEARNING. */
ZGE_API zge_status zge_learner_solve(zge_model *m, uint32_t rounds);

/* Remember samples without learning from them (each counts as a step of the generator); forget all.
 * Fails: ZGE_E_ARGUMENT, ZGE_E_NO_LEARNING, ZGE_E_LABEL, ZGE_E_INPUT. */
ZGE_API zge_status zge_replay_store_f32(zge_model *m, const float *x, const uint16_t *y, uint32_t n);
ZGE_API zge_status zge_replay_clear(zge_model *m);

/* Predict one sample without a label, x [inputs], and watch for drift by it alone: how sure the prediction is,
 * compared with the anchors, and how many inputs are beyond their scale.
 *   label  what is predicted, -1 where it is unknown
 *   drift  1 where a warning begins, else 0; may be null
 * A model without a watch section predicts and no more. Fails: ZGE_E_ARGUMENT, ZGE_E_INPUT. */
ZGE_API zge_status zge_learner_watch_f32(zge_model *m, const float *x, int32_t *label, uint32_t *drift);
ZGE_API zge_status zge_learner_watch_u8(zge_model *m, const uint8_t *x, int32_t *label, uint32_t *drift);

/* Take the present state as the accepted one, or go back to the one accepted last, whatever the anchors say.
 * In a trial the first ends it with a new epoch, the second with the old one.
 * Fails: ZGE_E_ARGUMENT, ZGE_E_NO_LEARNING, ZGE_E_NO_GUARD (a file without anchors). */
ZGE_API zge_status zge_learner_accept(zge_model *m);
ZGE_API zge_status zge_learner_rollback(zge_model *m);

/* Kernel variants in this library: "portable" (the reference) and what the compiler could build. At
 * first use the best one that the processor has is chosen. Selecting is not thread safe.
 * zge_variant_select fails with ZGE_E_VARIANT and keeps the current one. */
ZGE_API uint32_t zge_variant_count(void);
ZGE_API const char *zge_variant_name(uint32_t i); /* null past the end */
ZGE_API int32_t zge_variant_usable(uint32_t i);   /* 1 where this processor can run it */
ZGE_API const char *zge_variant_current(void);
ZGE_API zge_status zge_variant_select(const char *name);

#ifdef __cplusplus
}
#endif
#endif
