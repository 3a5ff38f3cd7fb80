/* zge_arena.c: the trust boundary. Everything about an arena is checked here, once. */
#include "zge_impl.h"

/* The bytes 0x89 'Z' 'G' 'E'. */
#define ZGE_MAGIC 0x45475a89u

#define ZGE_SECTION_KINDS 19u

typedef struct zge_section {
    uint32_t offset, bytes;
    int32_t present;
} zge_section;

/* CRC-32 a nibble at a time (reflected 0xEDB88320): 64 bytes of table instead of 1,024. */
static const uint32_t zge_crc_table[16] = {
    0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
    0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};

uint32_t zge_crc32(uint32_t crc, const uint8_t *p, size_t n) {
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        crc = (crc >> 4) ^ zge_crc_table[crc & 15u];
        crc = (crc >> 4) ^ zge_crc_table[crc & 15u];
    }
    return ~crc;
}

/* CRC of header and table, the checksum field taken as zero. */
static uint32_t zge_head_crc(const uint8_t *a, uint32_t sections) {
    static const uint8_t zero[4] = {0, 0, 0, 0};
    uint32_t crc = zge_crc32(0, a, ZGE_H_CHECKSUM);
    crc = zge_crc32(crc, zero, sizeof zero);
    return zge_crc32(crc, a + ZGE_H_CHECKSUM + 4,
                     (size_t)ZGE_H_SIZE - ZGE_H_CHECKSUM - 4 + (size_t)sections * ZGE_T_SIZE);
}

static zge_status zge_fail(zge_fault *f, zge_status status, uint32_t section, uint32_t layer, uint32_t offset) {
    if (f != NULL) {
        f->status = status;
        f->section = section;
        f->layer = layer;
        f->offset = offset;
    }
    return status;
}

static int32_t zge_all_zero(const uint8_t *p, size_t n) {
    uint8_t seen = 0;
    for (size_t i = 0; i < n; i++) {
        seen |= p[i];
    }
    return seen == 0;
}

static int32_t zge_finite(float v) { return v >= -3.0e38f && v <= 3.0e38f; }

/* Bounds of header and table. */
static zge_status zge_check_head(const uint8_t *a, size_t bytes, zge_fault *f) {
    if (bytes < ZGE_H_SIZE) {
        if (bytes < 4 || zge_get32(a) != ZGE_MAGIC) {
            return zge_fail(f, ZGE_E_MAGIC, 0, 0, 0);
        }
        return zge_fail(f, ZGE_E_SIZE, 0, 0, (uint32_t)bytes);
    }
    if (zge_get32(a) != ZGE_MAGIC) {
        return zge_fail(f, ZGE_E_MAGIC, 0, 0, 0);
    }
    if (zge_get16(a + ZGE_H_VERSION) != ZGE_FORMAT_VERSION) {
        return zge_fail(f, ZGE_E_VERSION, 0, 0, ZGE_H_VERSION);
    }
    uint32_t sections = zge_get16(a + ZGE_H_SECTIONS);
    uint32_t size = zge_get32(a + ZGE_H_BYTES);
    if (size != bytes || size > ZGE_MAX_ARENA) {
        return zge_fail(f, ZGE_E_SIZE, 0, 0, ZGE_H_BYTES);
    }
    if (sections < 1 || sections >= ZGE_SECTION_KINDS || ZGE_H_SIZE + sections * ZGE_T_SIZE > size) {
        return zge_fail(f, ZGE_E_SECTION, 0, 0, ZGE_H_SECTIONS);
    }
    return ZGE_OK;
}

/* Kinds between those that there are are reserved. */
static int32_t zge_is_section(uint32_t kind) {
    return (kind >= ZGE_S_NET && kind <= ZGE_S_ANALYTIC) || kind == ZGE_S_TRACES || kind == ZGE_S_PENDING;
}

/* Sections in ascending order, aligned, inside, apart; every byte between them zero. */
static zge_status zge_check_table(const uint8_t *a, zge_section *s, zge_fault *f) {
    uint32_t sections = zge_get16(a + ZGE_H_SECTIONS);
    uint32_t size = zge_get32(a + ZGE_H_BYTES);
    uint32_t align = zge_get32(a + ZGE_H_ALIGN);
    uint32_t end = ZGE_H_SIZE + sections * ZGE_T_SIZE;
    if (align < 8 || align > 64 || (align & (align - 1)) != 0) {
        return zge_fail(f, ZGE_E_SECTION, 0, 0, ZGE_H_ALIGN);
    }
    if (!zge_all_zero(a + ZGE_H_RESERVED, ZGE_H_SIZE - ZGE_H_RESERVED) || zge_get32(a + ZGE_H_FLAGS) > 1u) {
        return zge_fail(f, ZGE_E_SECTION, 0, 0, ZGE_H_FLAGS);
    }
    for (uint32_t i = 0; i < sections; i++) {
        const uint8_t *t = a + ZGE_H_SIZE + i * ZGE_T_SIZE;
        uint32_t at = ZGE_H_SIZE + i * ZGE_T_SIZE;
        uint32_t kind = zge_get16(t + ZGE_T_KIND);
        uint32_t offset = zge_get32(t + ZGE_T_OFFSET);
        uint32_t bytes = zge_get32(t + ZGE_T_BYTES);
        if (!zge_is_section(kind) || s[kind].present || zge_get16(t + ZGE_T_FLAGS) != 0) {
            return zge_fail(f, ZGE_E_SECTION, kind, 0, at);
        }
        if (offset % align != 0 || offset < end || offset > size || bytes > size - offset) {
            return zge_fail(f, ZGE_E_SECTION, kind, 0, at);
        }
        if (!zge_all_zero(a + end, offset - end)) {
            return zge_fail(f, ZGE_E_CHECKSUM, kind, 0, end);
        }
        if (zge_crc32(0, a + offset, bytes) != zge_get32(t + ZGE_T_CHECKSUM)) {
            return zge_fail(f, ZGE_E_CHECKSUM, kind, 0, offset);
        }
        s[kind].offset = offset;
        s[kind].bytes = bytes;
        s[kind].present = 1;
        end = offset + bytes;
    }
    if (end != size) {
        return zge_fail(f, ZGE_E_SECTION, 0, 0, end);
    }
    return ZGE_OK;
}

/* The section must be there with just this many bytes; a section of none must be absent. */
static zge_status zge_expect(const zge_section *s, uint32_t kind, uint64_t bytes, zge_fault *f) {
    uint64_t have = s[kind].present ? s[kind].bytes : 0;
    if (have != bytes || (s[kind].present && bytes == 0)) {
        return zge_fail(f, ZGE_E_SECTION, kind, 0, s[kind].offset);
    }
    return ZGE_OK;
}

static uint32_t zge_bits_for(uint32_t n) { /* bits that hold 0 .. n - 1 */
    uint32_t bits = 0;
    while (bits < 16 && (1u << bits) < n) {
        bits++;
    }
    return bits;
}

static int32_t zge_is_power(uint32_t n) { return n != 0 && (n & (n - 1)) == 0; }

/* Whether layers learn step by step: what needs errors and residual bits. */
static int32_t zge_steps(const zge_model *m) { return m->learning && m->head == ZGE_HEAD_SOFTMAX; }

/* Shapes and scales of all layers. Pointers come later. */
static zge_status zge_check_net(const uint8_t *net, uint32_t bytes, uint32_t at, zge_model *m, zge_fault *f) {
    if (bytes < ZGE_N_SIZE) {
        return zge_fail(f, ZGE_E_SECTION, ZGE_S_NET, 0, at);
    }
    m->inputs = zge_get32(net + ZGE_N_INPUTS);
    m->classes = zge_get16(net + ZGE_N_CLASSES);
    m->layers = zge_get16(net + ZGE_N_LAYERS);
    m->groups = zge_get32(net + ZGE_N_GROUPS);
    m->batch = zge_get16(net + ZGE_N_BATCH);
    m->unknown = zge_get16(net + ZGE_N_UNKNOWN);
    m->replay_samples = zge_get32(net + ZGE_N_REPLAY);
    m->replay_bits = zge_get16(net + ZGE_N_REPLAY_BITS);
    m->replay_pool = net[ZGE_N_REPLAY_POOL];
    m->head = net[ZGE_N_HEAD];
    m->known = zge_get16(net + ZGE_N_KNOWN);
    m->spare = m->known > 0;
    m->known = m->spare ? m->known : m->classes;
    if (m->inputs < 1 || m->inputs > ZGE_MAX_INPUTS || m->classes < 2 || m->classes > ZGE_MAX_CLASSES ||
        m->layers < 1 || m->layers > ZGE_MAX_TRUNK + ZGE_MAX_LAYERS || (m->groups != 1 && m->groups != m->inputs)) {
        return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, 0, at);
    }
    uint64_t height = zge_get32(net + ZGE_N_HEIGHT);
    uint64_t width = zge_get32(net + ZGE_N_WIDTH);
    uint64_t channels = zge_get16(net + ZGE_N_CHANNELS);
    if (height > ZGE_MAX_INPUTS || width > ZGE_MAX_INPUTS || height * width * channels != m->inputs ||
        zge_get16(net + ZGE_N_TASK) > 2) {
        return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, 0, at + ZGE_N_HEIGHT);
    }
    if (!zge_is_power(m->batch) || m->batch > ZGE_MAX_BATCH || (!m->learning && m->batch != 1)) {
        return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, 0, at + ZGE_N_BATCH);
    }
    int32_t replay_ok = m->replay_samples == 0 ? m->replay_bits == 0
                                               : zge_is_power(m->replay_bits) && m->replay_bits <= 8 &&
                                                     m->learning && m->replay_samples <= 65535u;
    if (!replay_ok || m->unknown > 32768u) {
        return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, 0, at + ZGE_N_REPLAY);
    }
    float accuracy = zge_getf(net + ZGE_N_ACCURACY);
    if (zge_get16(net + ZGE_N_FLAGS) > 3 || !(accuracy >= -1.0f && accuracy <= 1.0f)) {
        return zge_fail(f, ZGE_E_STATE, ZGE_S_NET, 0, at + ZGE_N_FLAGS);
    }
    if (bytes != ZGE_N_SIZE + m->layers * (uint32_t)ZGE_L_SIZE) {
        return zge_fail(f, ZGE_E_SECTION, ZGE_S_NET, 0, at);
    }
    if (m->head > ZGE_HEAD_ANALYTIC || m->known > m->classes ||
        (m->head == ZGE_HEAD_ANALYTIC &&
         (!m->learning || m->replay_samples > 0 || m->classes > ZGE_MAX_ANALYTIC_CLASSES))) {
        return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, 0, at + ZGE_N_HEAD);
    }
    const uint32_t records = m->layers;
    m->conv[0].height = (uint32_t)height;
    m->conv[0].width = (uint32_t)width;
    m->conv[0].channels = (uint32_t)channels;
#if !defined(ZGE_NO_TRUNK)
    for (; m->trunk < records; m->trunk++) {
        const uint8_t *p = net + ZGE_N_SIZE + m->trunk * ZGE_P_SIZE;
        if (p[ZGE_P_KIND] < ZGE_L_CONV || p[ZGE_P_KIND] > ZGE_L_MEAN_POOL) {
            break;
        }
        zge_status st = m->trunk == ZGE_MAX_TRUNK || m->groups != 1 ? ZGE_E_SHAPE : zge_trunk_read(m, p, m->trunk);
        if (st != ZGE_OK) {
            return zge_fail(f, st, ZGE_S_NET, m->trunk, at + ZGE_N_SIZE + m->trunk * ZGE_L_SIZE);
        }
    }
#endif
    m->layers = records - m->trunk;
    if (m->layers < 1 || m->layers > ZGE_MAX_LAYERS) {
        return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, 0, at + ZGE_N_LAYERS);
    }
    /* Places are those of the network's own picture, which all have one scale. */
    if (m->replay_pool != 0 && (m->replay_pool != 2 || m->replay_samples == 0 || m->trunk > 0 || m->groups != 1)) {
        return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, 0, at + ZGE_N_REPLAY_POOL);
    }
    m->features = m->trunk > 0 ? zge_get32(net + ZGE_N_SIZE + (m->trunk - 1) * ZGE_P_SIZE + ZGE_P_OUTPUTS) : m->inputs;
    uint32_t inputs = m->features;
    for (uint32_t i = 0; i < m->layers; i++) {
        const uint32_t record = m->trunk + i;
        const uint8_t *p = net + ZGE_N_SIZE + record * ZGE_L_SIZE;
        uint32_t here = at + ZGE_N_SIZE + record * ZGE_L_SIZE;
        zge_layer *l = &m->layer[i];
        memset(l, 0, sizeof *l);
        l->kind = p[ZGE_L_KIND];
        l->block = p[ZGE_L_BLOCK];
        l->residual = p[ZGE_L_RESIDUAL];
        l->z_in = p[ZGE_L_Z_IN];
        l->inputs = zge_get32(p + ZGE_L_INPUTS);
        l->outputs = zge_get32(p + ZGE_L_OUTPUTS);
        l->width = zge_get32(p + ZGE_L_WIDTH);
        l->s_in = zge_getf(p + ZGE_L_S_IN);
        l->s_w = zge_getf(p + ZGE_L_S_W);
        l->s_out = zge_getf(p + ZGE_L_S_OUT);
        if (l->kind != ZGE_L_SPARSE && l->kind != ZGE_L_DENSE) {
            return zge_fail(f, ZGE_E_KIND, ZGE_S_NET, record, here);
        }
        if (l->inputs != inputs || l->outputs < 1 || l->outputs > ZGE_MAX_INPUTS || l->width < 1 ||
            l->width > l->inputs || (i + 1 == m->layers && l->outputs != m->classes) ||
            (record > 0 && l->z_in != 0) || zge_get32(p + ZGE_L_RESERVED) != 0) {
            return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, record, here);
        }
        if (l->kind == ZGE_L_SPARSE) {
            if ((l->block != 1 && l->block != 4 && l->block != 8 && l->block != 16) ||
                l->inputs % l->block != 0 || l->width % l->block != 0) {
                return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, record, here + ZGE_L_BLOCK);
            }
            l->per_row = l->width / l->block;
            l->index_bits = zge_bits_for(l->inputs / l->block);
            l->index_mask = (1u << l->index_bits) - 1u;
        } else if (l->block != 1 || l->width != l->inputs) {
            return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, record, here + ZGE_L_BLOCK);
        }
        int32_t fits = l->kind == ZGE_L_SPARSE && l->block == 1 && l->index_bits <= 12;
        uint32_t expected = !zge_steps(m) ? ZGE_R_NONE : fits ? ZGE_R_INDEX : ZGE_R_SECTION;
        if (l->residual != expected) {
            return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, record, here + ZGE_L_RESIDUAL);
        }
        if (!zge_good_scale(l->s_in) || !zge_good_scale(l->s_w) || !zge_good_scale(l->s_out) ||
            !zge_good_scale(16.0f * l->s_in * l->s_w)) {
            return zge_fail(f, ZGE_E_SCALE, ZGE_S_NET, record, here + ZGE_L_S_IN);
        }
        inputs = l->outputs;
    }
    const zge_layer *head = &m->layer[m->layers - 1];
    if (m->head == ZGE_HEAD_ANALYTIC && (head->kind != ZGE_L_DENSE || head->inputs > ZGE_MAX_ANALYTIC)) {
        return zge_fail(f, ZGE_E_SHAPE, ZGE_S_NET, records - 1, at + ZGE_N_HEAD);
    }
    return ZGE_OK;
}

/* Values that are remembered of a sample. */
static uint32_t zge_replay_values(const zge_model *m) {
    const zge_conv *p = &m->conv[0];
    return m->replay_pool == 0 ? m->features : (p->height + 1) / 2 * ((p->width + 1) / 2) * p->channels;
}

/* Inputs of the widest layer that can be rewired: the length of the gradient row. */
static uint32_t zge_widest_sparse(const zge_model *m) {
    uint32_t widest = 0;
    for (uint32_t i = 0; i < m->layers; i++) {
        const zge_layer *l = &m->layer[i];
        widest = l->kind == ZGE_L_SPARSE && l->inputs > widest ? l->inputs : widest;
    }
    return widest;
}

/* Units of the widest hidden layer: the length of the errors that flow back. */
static uint32_t zge_widest_hidden(const zge_model *m) {
    uint32_t widest = 0;
    for (uint32_t i = 1; i < m->layers; i++) {
        widest = m->layer[i].inputs > widest ? m->layer[i].inputs : widest;
    }
    return widest;
}

/* Outputs of the sparse layer that has most: the rows of the traces. */
static uint32_t zge_most_sparse(const zge_model *m) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < m->layers; i++) {
        const zge_layer *l = &m->layer[i];
        most = l->kind == ZGE_L_SPARSE && l->outputs > most ? l->outputs : most;
    }
    return most;
}

/* Lengths that the shapes demand; 64-bit so that nothing near 2^32 wraps. */
typedef struct zge_needs {
    uint64_t weights, indices, rows, residual, activations, scratch, replay, learner, anchors, watch, snapshot;
    uint64_t analytic, traces, pending;
} zge_needs;

static void zge_need(const zge_model *m, zge_needs *n) {
    memset(n, 0, sizeof *n);
    n->activations = zge_round4(m->trunk_bytes);
    for (uint32_t i = 0; i < m->trunk; i++) {
        const zge_conv *l = &m->conv[i];
        n->weights += (uint64_t)l->taps * l->out_channels;
        n->rows += l->taps > 0 ? (uint64_t)l->out_channels * 8 : 0;
    }
    for (uint32_t i = 0; i < m->layers; i++) {
        const zge_layer *l = &m->layer[i];
        uint64_t weights = (uint64_t)l->outputs * l->width;
        n->weights += weights;
        n->indices += (uint64_t)l->outputs * l->per_row * 2;
        n->rows += (uint64_t)l->outputs * 8;
        n->residual += l->residual == ZGE_R_SECTION ? (weights + 1) / 2 : 0;
        n->activations += zge_round4(l->inputs * m->batch);
        n->scratch += zge_round4(l->outputs * m->batch);
    }
    n->activations += (uint64_t)m->classes * m->batch * 4;
    n->scratch += (uint64_t)zge_widest_hidden(m) * m->batch * 4 + (uint64_t)zge_widest_sparse(m) * 4;
    n->learner = ZGE_K_SIZE + (uint64_t)m->layers * ZGE_KL_SIZE;
    if (m->replay_samples > 0) {
        n->replay = zge_round4(m->classes * 2) + (uint64_t)m->replay_samples * (m->classes > 256 ? 2 : 1) +
                    (uint64_t)m->replay_samples * m->replay_stride;
    }
    if (m->parts > 0) {
        n->traces = ZGE_A_SIZE + (uint64_t)zge_most_sparse(m) * 4 +
                    (uint64_t)m->parts * (zge_most_sparse(m) + zge_widest_sparse(m));
    }
    if (m->anchors > 0) {
        n->anchors = ZGE_G_SIZE + (uint64_t)m->anchors * ((m->classes > 256 ? 2 : 1) + 1u + m->replay_stride);
#if !defined(ZGE_NO_WATCH)
        n->snapshot = zge_snapshot_bytes(m);
#endif
    }
    n->watch = m->anchors > 0 || m->watch != NULL ? ZGE_W_SIZE : 0;
    if (!zge_steps(m)) {
        n->scratch = 0;
    }
    if (!m->learning) {
        n->learner = 0;
        n->watch = 0;
    }
#if !defined(ZGE_NO_ANALYTIC)
    if (m->head == ZGE_HEAD_ANALYTIC) {
        n->analytic = zge_analytic_bytes(m->classes, m->layer[m->layers - 1].inputs);
    }
#endif
    if (m->pending_entries > 0) {
        n->pending = ZGE_WAIT_SIZE + (uint64_t)m->pending_entries * (ZGE_WAITING_SIZE + m->replay_stride);
    }
}

/* Pointers of each layer and of the scratch. All lengths are known to fit. */
static void zge_place(zge_model *m, const zge_section *s) {
    uint8_t *a = m->arena;
    uint8_t *weights = a + s[ZGE_S_WEIGHTS].offset;
    uint8_t *indices = a + s[ZGE_S_INDICES].offset;
    uint8_t *rows = a + s[ZGE_S_ROWS].offset;
    uint8_t *residual = a + s[ZGE_S_RESIDUAL].offset;
    uint8_t *x = a + s[ZGE_S_ACTIVATIONS].offset;
    uint8_t *scratch = a + s[ZGE_S_SCRATCH].offset;
    for (uint32_t i = 0; i < m->trunk; i++) {
        zge_conv *l = &m->conv[i];
        if (l->taps > 0) {
            l->weights = (const int8_t *)weights;
            weights += (size_t)l->taps * l->out_channels;
            l->bias = (const int32_t *)(const void *)rows;
            rows += (size_t)l->out_channels * 4;
            l->multiplier = (const float *)(const void *)rows;
            rows += (size_t)l->out_channels * 4;
        }
    }
#if !defined(ZGE_NO_TRUNK)
    zge_trunk_place(m, x);
#endif
    x += zge_round4(m->trunk_bytes);
    if (zge_steps(m)) {
        m->back = (int32_t *)(void *)scratch;
        scratch += (size_t)zge_widest_hidden(m) * m->batch * 4;
        m->grad = (int32_t *)(void *)scratch;
        scratch += (size_t)zge_widest_sparse(m) * 4;
    }
    for (uint32_t i = 0; i < m->layers; i++) {
        zge_layer *l = &m->layer[i];
        l->weights = (int8_t *)weights;
        weights += (size_t)l->outputs * l->width;
        if (l->kind == ZGE_L_SPARSE) {
            l->indices = (uint16_t *)(void *)indices;
            indices += (size_t)l->outputs * l->per_row * 2;
        }
        l->bias = (int32_t *)(void *)rows;
        rows += (size_t)l->outputs * 4;
        l->multiplier = (float *)(void *)rows;
        rows += (size_t)l->outputs * 4;
        if (l->residual == ZGE_R_SECTION) {
            l->nibbles = residual;
            residual += ((size_t)l->outputs * l->width + 1) / 2;
        }
        l->x = x;
        x += zge_round4(l->inputs * m->batch);
        if (zge_steps(m)) {
            l->delta = (int8_t *)scratch;
            scratch += zge_round4(l->outputs * m->batch);
        }
    }
    m->logits = (int32_t *)(void *)x;
    if (m->replay_samples > 0) {
        uint8_t *r = a + s[ZGE_S_REPLAY].offset;
        m->replay_counts = (uint16_t *)(void *)r;
        m->replay_labels = r + zge_round4(m->classes * 2);
        m->replay_data = m->replay_labels + (size_t)m->replay_samples * (m->classes > 256 ? 2 : 1);
    }
    if (m->learning) {
        m->learner = a + s[ZGE_S_LEARNER].offset;
    }
    if (m->parts > 0) {
        m->traces = a + s[ZGE_S_TRACES].offset;
        m->trace_bytes = s[ZGE_S_TRACES].bytes;
        m->query = (int32_t *)(void *)(m->traces + ZGE_A_SIZE);
        m->queries = (int8_t *)(m->query + zge_most_sparse(m));
        m->keys = m->queries + (size_t)m->parts * zge_most_sparse(m);
    }
    if (m->anchors > 0) {
        m->anchor_head = a + s[ZGE_S_ANCHORS].offset;
        m->anchor_labels = m->anchor_head + ZGE_G_SIZE;
        m->anchor_flags = m->anchor_labels + (size_t)m->anchors * (m->classes > 256 ? 2 : 1);
        m->anchor_data = m->anchor_flags + m->anchors;
        m->snapshot = a + s[ZGE_S_SNAPSHOT].offset;
    }
    m->net = a + s[ZGE_S_NET].offset;
    m->names = a + s[ZGE_S_NAMES].offset;
    m->head_record = m->net + ZGE_N_SIZE + (size_t)(m->trunk + m->layers - 1) * ZGE_L_SIZE;
    m->analytic = s[ZGE_S_ANALYTIC].present ? a + s[ZGE_S_ANALYTIC].offset : NULL;
    m->pending = s[ZGE_S_PENDING].present ? a + s[ZGE_S_PENDING].offset : NULL;
    m->input_scale = (const float *)(const void *)(a + s[ZGE_S_INPUT].offset);
    m->input_center = m->input_scale + m->groups;
}

/* Biases and multipliers of `n` rows of `width` weights each; `record`: the layer's. */
static zge_status zge_check_rows(const zge_model *m, uint32_t record, const int32_t *bias, const float *multiplier,
                                 uint32_t n, uint32_t width, zge_fault *f) {
    /* |sum| <= width * 255 * 127 < 2^31 holds for the products alone; the bias may use the rest. */
    const int64_t most = (int64_t)width * 255 * 127;
    for (uint32_t r = 0; r < n; r++) {
        if (!zge_good_scale(multiplier[r])) {
            return zge_fail(f, ZGE_E_SCALE, ZGE_S_ROWS, record,
                            (uint32_t)((const uint8_t *)&multiplier[r] - m->arena));
        }
        if (bias[r] + most > INT32_MAX || bias[r] - most < -(int64_t)INT32_MAX) {
            return zge_fail(f, ZGE_E_SCALE, ZGE_S_ROWS, record, (uint32_t)((const uint8_t *)&bias[r] - m->arena));
        }
    }
    return ZGE_OK;
}

static zge_status zge_check_weights(const zge_model *m, uint32_t record, const int8_t *w, size_t n, zge_fault *f) {
    int32_t least = 0;
    for (size_t k = 0; k < n; k++) {
        least = w[k] < least ? w[k] : least;
    }
    if (least < -127) {
        return zge_fail(f, ZGE_E_SCALE, ZGE_S_WEIGHTS, record, (uint32_t)((const uint8_t *)w - m->arena));
    }
    return ZGE_OK;
}

/* Every weight, bias and multiplier of a trunk layer. */
static zge_status zge_check_conv(const zge_model *m, uint32_t i, zge_fault *f) {
    const zge_conv *l = &m->conv[i];
    if (l->taps == 0) {
        return ZGE_OK;
    }
    zge_status st = zge_check_rows(m, i, l->bias, l->multiplier, l->out_channels, l->taps, f);
    return st != ZGE_OK ? st : zge_check_weights(m, i, l->weights, (size_t)l->taps * l->out_channels, f);
}

zge_status zge_check_layer(const zge_model *m, const zge_layer *l, uint32_t i, zge_fault *f) {
    uint8_t seen[(ZGE_MAX_INPUTS + 7) / 8]; /* one bit an input block, cleared after each row */
    uint32_t blocks = l->kind == ZGE_L_SPARSE ? l->inputs / l->block : 0;
    memset(seen, 0, (blocks + 7) / 8);
    uint32_t spare = 0xffffu & ~l->index_mask & (l->residual == ZGE_R_INDEX ? 0x0fffu : 0xffffu);
    for (uint32_t r = 0; r < l->outputs; r++) {
        const uint16_t *row = l->indices == NULL ? NULL : l->indices + (size_t)r * l->per_row;
        for (uint32_t k = 0; k < l->per_row; k++) {
            uint32_t index = row[k] & l->index_mask;
            uint32_t at = (uint32_t)((const uint8_t *)&row[k] - m->arena);
            if (index >= blocks || (row[k] & spare) != 0) {
                return zge_fail(f, ZGE_E_INDEX, ZGE_S_INDICES, i, at);
            }
            if (seen[index / 8] & (1u << (index % 8))) {
                return zge_fail(f, ZGE_E_DUPLICATE, ZGE_S_INDICES, i, at);
            }
            seen[index / 8] = (uint8_t)(seen[index / 8] | (1u << (index % 8)));
        }
        for (uint32_t k = 0; k < l->per_row; k++) {
            seen[(row[k] & l->index_mask) / 8] = 0;
        }
    }
    zge_status st = zge_check_rows(m, i, l->bias, l->multiplier, l->outputs, l->width, f);
    return st != ZGE_OK ? st : zge_check_weights(m, i, l->weights, (size_t)l->outputs * l->width, f);
}

static int32_t zge_is_room(const uint8_t *p, const uint8_t *end) {
    for (; p != end; p++) {
        if (*p != ZGE_NO_NAME) {
            return 0;
        }
    }
    return 1;
}

static zge_status zge_check_names(const uint8_t *net, const uint8_t *p, uint32_t bytes, uint32_t at,
                                  const zge_model *m, zge_fault *f) {
    uint32_t names = m->classes + ((zge_get16(net + ZGE_N_FLAGS) & 2u) ? m->inputs : 0);
    uint32_t ends = 0;
    for (uint32_t i = 0; i < bytes; i++) {
        ends += p[i] == 0;
    }
    if (ends != names || p[bytes - 1] != 0) {
        return zge_fail(f, ZGE_E_STATE, ZGE_S_NAMES, 0, at);
    }
    const uint8_t *end = p;
    for (uint32_t c = 0; c < m->classes; c++, end++) {
        const uint8_t *start = end;
        uint32_t filled = 0; /* bytes of the name, before the room behind it */
        for (; *end != 0; end++) {
            filled += *end != ZGE_NO_NAME;
        }
        /* Of a named class the room comes last; of another nothing else is there. */
        if ((filled > 0) != (c < m->known && end != start) || (m->spare && end == start) ||
            !zge_is_room(start + filled, end)) {
            return zge_fail(f, ZGE_E_STATE, ZGE_S_NAMES, 0, at + (uint32_t)(start - p));
        }
    }
    return ZGE_OK;
}

static zge_status zge_check_learner(const zge_model *m, zge_fault *f) {
    const uint8_t *k = m->learner;
    uint32_t at = (uint32_t)(k - m->arena);
    uint32_t rows = 0;
    for (uint32_t i = 0; i < m->layers; i++) {
        rows += m->layer[i].kind == ZGE_L_SPARSE ? m->layer[i].outputs : 0;
    }
    float rate = zge_getf(k + ZGE_K_RATE);
    uint32_t cursor = zge_get32(k + ZGE_K_CURSOR);
    uint32_t gather = zge_get16(k + ZGE_K_GATHER);
    if (!(rate > 0.0f && rate <= 8.0f) || zge_get16(k + ZGE_K_LEARN) > ZGE_LEARN_NONE ||
        !zge_rewire_can(m, zge_get16(k + ZGE_K_STRATEGY)) || k[ZGE_K_KEEP] > ZGE_KEEP_RESERVOIR ||
        gather < 1 || gather > 4096 || (rows == 0 ? cursor != 0 : cursor >= rows) ||
        zge_get32(k + ZGE_K_GATHERED) > 4096 + ZGE_MAX_BATCH ||
        zge_get32(k + ZGE_K_ACTIVITY) > zge_get32(k + ZGE_K_GATHERED) * 255) {
        return zge_fail(f, ZGE_E_STATE, ZGE_S_LEARNER, 0, at);
    }
    for (uint32_t i = 0; i < m->layers; i++) {
        const uint8_t *p = k + ZGE_K_SIZE + i * ZGE_KL_SIZE;
        if (!zge_good_scale(zge_getf(p + ZGE_KL_WEIGHT)) || !zge_good_scale(zge_getf(p + ZGE_KL_BIAS))) {
            return zge_fail(f, ZGE_E_SCALE, ZGE_S_LEARNER, i, at + ZGE_K_SIZE + i * ZGE_KL_SIZE);
        }
    }
    /* A gradient gathered from so many samples is no larger; sums of such cannot overflow. */
    const int32_t most = (int32_t)zge_get32(k + ZGE_K_GATHERED) * 255 * 127;
    for (uint32_t i = 0; i < zge_widest_sparse(m) && m->grad != NULL; i++) {
        if (m->grad[i] > most || m->grad[i] < -most) {
            return zge_fail(f, ZGE_E_STATE, ZGE_S_SCRATCH, 0, (uint32_t)((uint8_t *)&m->grad[i] - m->arena));
        }
    }
    uint32_t filled = zge_get32(k + ZGE_K_FILLED);
    if (filled > m->replay_samples) {
        return zge_fail(f, ZGE_E_STATE, ZGE_S_LEARNER, 0, at + ZGE_K_FILLED);
    }
    uint32_t counted = 0;
    for (uint32_t c = 0; c < m->classes && m->replay_samples > 0; c++) {
        uint32_t have = 0;
        for (uint32_t i = 0; i < filled; i++) {
            have += (m->classes > 256 ? zge_get16(m->replay_labels + 2 * i) : m->replay_labels[i]) == c;
        }
        if (m->replay_counts[c] != have) {
            return zge_fail(f, ZGE_E_STATE, ZGE_S_REPLAY, 0, (uint32_t)(m->replay_labels - m->arena));
        }
        counted += have;
    }
    if (counted != filled) { /* a label that is no class */
        return zge_fail(f, ZGE_E_STATE, ZGE_S_REPLAY, 0, (uint32_t)(m->replay_labels - m->arena));
    }
    return ZGE_OK;
}

#if !defined(ZGE_NO_TRACES)
/* The state of the sketches; numbers that a step multiplies are within what it counts on. */
static zge_status zge_check_traces(const zge_model *m, zge_fault *f) {
    const uint8_t *p = m->traces;
    const uint32_t held = zge_get16(p + ZGE_A_HELD);
    const uint32_t next = zge_get16(p + ZGE_A_NEXT);
    const int32_t most = (int32_t)zge_get32(m->learner + ZGE_K_GATHERED) * 127;
    int32_t good = held <= m->parts && next < m->parts && (held == m->parts || next == held) &&
                   zge_get16(p + ZGE_A_ZERO) == 0;
    for (uint32_t r = 0; r < zge_most_sparse(m); r++) {
        good &= m->query[r] <= most && m->query[r] >= -most;
    }
    const int8_t *end = (const int8_t *)p + m->trace_bytes;
    for (const int8_t *q = m->queries; q < end; q++) {
        good &= *q >= -127;
    }
    return good ? ZGE_OK : zge_fail(f, ZGE_E_STATE, ZGE_S_TRACES, 0, (uint32_t)(p - m->arena));
}
#endif

uint32_t zge_version(void) { return ZGE_VERSION; }
size_t zge_model_bytes(void) { return sizeof(zge_model); }

const char *zge_status_text(int32_t status) {
    switch ((zge_status)status) {
    case ZGE_OK: return "done";
    case ZGE_E_ARGUMENT: return "an argument is missing or outside its range";
    case ZGE_E_MAGIC: return "this is not a zge file";
    case ZGE_E_VERSION: return "the file's format version is not one that this version reads";
    case ZGE_E_SIZE: return "the file is cut short or has bytes too many";
    case ZGE_E_CHECKSUM: return "bytes are damaged: a checksum does not match";
    case ZGE_E_SECTION: return "a section is missing, unknown, misplaced or of the wrong length";
    case ZGE_E_SHAPE: return "a size is outside the limits or the layers do not fit each other";
    case ZGE_E_KIND: return "a layer is of a kind that this version does not run";
    case ZGE_E_INDEX: return "a connection points outside its layer's inputs";
    case ZGE_E_DUPLICATE: return "a unit is connected twice to one input";
    case ZGE_E_SCALE: return "a scale, bias or weight is outside its range";
    case ZGE_E_STATE: return "the learner's state, the replay or the names contradict themselves";
    case ZGE_E_ALIGN: return "the arena does not start at a multiple of 8 bytes";
    case ZGE_E_INPUT: return "a sample holds NaN or an infinity";
    case ZGE_E_LABEL: return "a label is not one of the classes";
    case ZGE_E_NO_LEARNING: return "the file was written without what learning needs";
    case ZGE_E_VARIANT: return "no such kernel variant on this processor";
    case ZGE_E_NO_GUARD: return "the file has no anchors and no accepted state";
    case ZGE_E_ROOM: return "no room was planned for another class, or for a name so long";
    case ZGE_E_NAME: return "a class name is empty, no text, or another class has it";
    case ZGE_E_ID: return "no sample with this id waits for its label";
    }
    return "unknown status";
}

zge_status zge_model_open(zge_model *m, void *arena, size_t bytes, zge_fault *fault) {
    uint8_t *a = arena;
    zge_section s[ZGE_SECTION_KINDS];
    zge_needs need;
    zge_status st;
    memset(s, 0, sizeof s);
    if (fault != NULL) {
        memset(fault, 0, sizeof *fault);
    }
    if (m == NULL || a == NULL) {
        return zge_fail(fault, ZGE_E_ARGUMENT, 0, 0, 0);
    }
    memset(m, 0, sizeof *m);
    if (((uintptr_t)a & 7u) != 0) {
        return zge_fail(fault, ZGE_E_ALIGN, 0, 0, 0);
    }
    st = zge_check_head(a, bytes, fault);
    if (st != ZGE_OK) {
        return st;
    }
    if (zge_head_crc(a, zge_get16(a + ZGE_H_SECTIONS)) != zge_get32(a + ZGE_H_CHECKSUM)) {
        return zge_fail(fault, ZGE_E_CHECKSUM, 0, 0, ZGE_H_CHECKSUM);
    }
    st = zge_check_table(a, s, fault);
    if (st != ZGE_OK) {
        return st;
    }
    m->arena = a;
    m->bytes = (uint32_t)bytes;
    m->learning = (int32_t)(zge_get32(a + ZGE_H_FLAGS) & 1u);
    const uint8_t *net = a + s[ZGE_S_NET].offset;
    st = zge_check_net(net, s[ZGE_S_NET].present ? s[ZGE_S_NET].bytes : 0, s[ZGE_S_NET].offset, m, fault);
    if (st != ZGE_OK) {
        return st;
    }
    /* Anchors: as many as their section says; how long that is follows below. */
    if (m->learning && s[ZGE_S_ANCHORS].present && s[ZGE_S_ANCHORS].bytes >= ZGE_G_SIZE) {
        m->anchors = zge_get32(a + s[ZGE_S_ANCHORS].offset + ZGE_G_ROOM);
        if (m->anchors < 1 || m->anchors > ZGE_G_MOST) {
            return zge_fail(fault, ZGE_E_STATE, ZGE_S_ANCHORS, 0, s[ZGE_S_ANCHORS].offset);
        }
        m->replay_bits = m->replay_samples > 0 ? m->replay_bits : 4; /* packed so without a replay */
    }
    m->watch = s[ZGE_S_WATCH].present ? a + s[ZGE_S_WATCH].offset : NULL;
    if (!zge_steps(m) && (m->anchors > 0 || m->watch != NULL)) {
        return zge_fail(fault, ZGE_E_SECTION, ZGE_S_WATCH, 0, s[ZGE_S_WATCH].offset);
    }
    if (s[ZGE_S_PENDING].present) {
        const uint8_t *p = a + s[ZGE_S_PENDING].offset;
        m->pending_entries = s[ZGE_S_PENDING].bytes < ZGE_WAIT_SIZE ? 0 : zge_get32(p + ZGE_WAIT_ENTRIES);
        if (!m->learning || m->pending_entries < 1 || m->pending_entries > ZGE_MAX_PENDING) {
            return zge_fail(fault, ZGE_E_SECTION, ZGE_S_PENDING, 0, s[ZGE_S_PENDING].offset);
        }
        m->replay_bits = m->replay_bits > 0 ? m->replay_bits : 8; /* packed so without replay and anchors */
    }
    m->replay_stride = (zge_replay_values(m) * m->replay_bits + 7u) / 8u;
#if !defined(ZGE_NO_TRUNK)
    m->trunk_bytes = m->trunk > 0 ? (uint32_t)zge_trunk_plan(m) : 0;
#endif
#if !defined(ZGE_NO_TRACES)
    if (s[ZGE_S_TRACES].present) { /* its length follows from its own first number */
        const uint32_t parts = s[ZGE_S_TRACES].bytes < ZGE_A_SIZE ? 0 : zge_get16(a + s[ZGE_S_TRACES].offset);
        if (!zge_steps(m) || parts < 1 || parts > ZGE_MAX_PARTS || zge_widest_sparse(m) == 0) {
            return zge_fail(fault, ZGE_E_SECTION, ZGE_S_TRACES, 0, s[ZGE_S_TRACES].offset);
        }
        m->parts = parts;
    }
#endif
    zge_need(m, &need);
    const struct {
        uint32_t kind;
        uint64_t bytes;
    } expect[] = {
        {ZGE_S_INPUT, (uint64_t)m->groups * 8}, {ZGE_S_WEIGHTS, need.weights},
        {ZGE_S_INDICES, need.indices},          {ZGE_S_ROWS, need.rows},
        {ZGE_S_RESIDUAL, need.residual},        {ZGE_S_ACTIVATIONS, need.activations},
        {ZGE_S_SCRATCH, need.scratch},          {ZGE_S_REPLAY, need.replay},
        {ZGE_S_LEARNER, need.learner},          {ZGE_S_ANCHORS, need.anchors},
        {ZGE_S_WATCH, need.watch},              {ZGE_S_SNAPSHOT, need.snapshot},
        {ZGE_S_ANALYTIC, need.analytic},        {ZGE_S_TRACES, need.traces},
        {ZGE_S_PENDING, need.pending},
    };
    for (size_t i = 0; i < sizeof expect / sizeof expect[0]; i++) {
        st = zge_expect(s, expect[i].kind, expect[i].bytes, fault);
        if (st != ZGE_OK) {
            return st;
        }
    }
    if (!s[ZGE_S_NAMES].present || s[ZGE_S_NAMES].bytes == 0) {
        return zge_fail(fault, ZGE_E_SECTION, ZGE_S_NAMES, 0, 0);
    }
    zge_place(m, s);
    st = zge_check_names(net, a + s[ZGE_S_NAMES].offset, s[ZGE_S_NAMES].bytes, s[ZGE_S_NAMES].offset, m, fault);
    if (st != ZGE_OK) {
        return st;
    }
    for (uint32_t g = 0; g < m->groups; g++) {
        if (!zge_good_scale(m->input_scale[g]) || !zge_finite(m->input_center[g])) {
            return zge_fail(fault, ZGE_E_SCALE, ZGE_S_INPUT, 0, s[ZGE_S_INPUT].offset + 4 * g);
        }
    }
    for (uint32_t i = 0; i < m->trunk; i++) {
        st = zge_check_conv(m, i, fault);
        if (st != ZGE_OK) {
            return st;
        }
    }
    for (uint32_t i = 0; i < m->layers; i++) {
        st = zge_check_layer(m, &m->layer[i], m->trunk + i, fault);
        if (st != ZGE_OK) {
            return st;
        }
    }
    st = m->learning ? zge_check_learner(m, fault) : ZGE_OK;
#if !defined(ZGE_NO_WATCH)
    if (st == ZGE_OK && m->watch != NULL) {
        st = zge_watch_check(m, fault);
    }
    if (st == ZGE_OK && m->anchors > 0) {
        st = zge_guard_check(m, fault);
    }
#endif
#if !defined(ZGE_NO_TRACES)
    if (st == ZGE_OK && m->parts > 0) {
        st = zge_check_traces(m, fault);
    }
#endif
#if !defined(ZGE_NO_ANALYTIC)
    if (st == ZGE_OK && m->analytic != NULL) {
        uint32_t where;
        st = zge_analytic_check(m, &where);
        st = st == ZGE_OK ? ZGE_OK : zge_fail(fault, st, ZGE_S_ANALYTIC, 0, where);
    }
#endif
#if !defined(ZGE_NO_PENDING)
    if (st == ZGE_OK && m->pending != NULL) {
        uint32_t where;
        st = zge_pending_check(m, &where);
        st = st == ZGE_OK ? ZGE_OK : zge_fail(fault, st, ZGE_S_PENDING, 0, where);
    }
#endif
    return st;
}

/* Renew all checksums of an arena whose bounds are known to be good. */
static void zge_sign(uint8_t *a) {
    uint32_t sections = zge_get16(a + ZGE_H_SECTIONS);
    for (uint32_t i = 0; i < sections; i++) {
        uint8_t *t = a + ZGE_H_SIZE + i * ZGE_T_SIZE;
        zge_put32(t + ZGE_T_CHECKSUM, zge_crc32(0, a + zge_get32(t + ZGE_T_OFFSET), zge_get32(t + ZGE_T_BYTES)));
    }
    zge_put32(a + ZGE_H_CHECKSUM, zge_head_crc(a, sections));
}

zge_status zge_model_seal(zge_model *m) {
    if (m == NULL || m->arena == NULL) {
        return ZGE_E_ARGUMENT;
    }
    uint8_t *a = m->arena;
    uint32_t sections = zge_get16(a + ZGE_H_SECTIONS);
    for (uint32_t i = 0; i < sections; i++) {
        const uint8_t *t = a + ZGE_H_SIZE + i * ZGE_T_SIZE;
        uint32_t kind = zge_get16(t + ZGE_T_KIND);
        if (kind == ZGE_S_ACTIVATIONS) {
            memset(a + zge_get32(t + ZGE_T_OFFSET), 0, zge_get32(t + ZGE_T_BYTES));
        }
    }
    if (zge_steps(m)) {
        /* The gradient row is state: it outlives a step. Errors are not. */
        const zge_layer *first = &m->layer[0];
        const zge_layer *last = &m->layer[m->layers - 1];
        memset(m->back, 0, (size_t)((uint8_t *)m->grad - (uint8_t *)m->back));
        memset(first->delta, 0,
               (size_t)(last->delta + zge_round4(last->outputs * m->batch) - first->delta));
    }
    zge_count(a + ZGE_H_GENERATION);
    zge_sign(a);
    return ZGE_OK;
}
