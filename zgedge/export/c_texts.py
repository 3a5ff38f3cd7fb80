"""The parts of a generated program that are not the core: the header, the constants and the calls.

Each is a `string.Template`; `$name` starts every public function, `$NAME` every public constant.
"""

from __future__ import annotations

LICENCE = """\
 * MIT License
 *
 * Copyright (c) 2026 the zgedge authors
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy
 * of this software and associated documentation files (the "Software"), to deal
 * in the Software without restriction, including without limitation the rights
 * to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
 * copies of the Software, and to permit persons to whom the Software is
 * furnished to do so, subject to the following conditions:
 *
 * The above copyright notice and this permission notice shall be included in all
 * copies or substantial portions of the Software.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
 * IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
 * FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
 * AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
 * LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
 * OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
 * SOFTWARE."""

HEADER = """\
/* $name.h
 *
 * $about
 *
 * The same file gives the same integers on every processor. Nothing is allocated, no function of a
 * library is called but memcpy and memset, and one thread at a time may call these functions.
 */
#ifndef ${NAME}_GENERATED_H
#define ${NAME}_GENERATED_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ${NAME}_INPUTS $inputs /* $height x $width x $channels, the last fastest */
#define ${NAME}_CLASSES $classes
#define ${NAME}_FLASH_BYTES $flash /* constants of the network; the code comes to it */
#define ${NAME}_RAM_BYTES $ram /* static memory$ram_note; the stack comes to it */

#define ${NAME}_UNKNOWN (-1) /* the network is not sure enough */
#define ${NAME}_ERROR_INPUT (-2) /* a value is NaN or infinite */
$errors
extern const char *const ${name}_class_names[${NAME}_CLASSES];

/* Raw values x [${NAME}_INPUTS], in the units of the training data, to codes [${NAME}_INPUTS].
 * Returns how many lay outside of what codes express and were clamped, or ${NAME}_ERROR_INPUT. */
int ${name}_quantize(const float *x, uint8_t *codes);

/* The class of codes x [${NAME}_INPUTS], 0 .. ${NAME}_CLASSES - 1, or ${NAME}_UNKNOWN$not_started.
 * scores [${NAME}_CLASSES] gets each class's softmax in steps of 1/255; it may be null. */
int ${name}_predict(const uint8_t *x, uint8_t *scores);

/* Logits [${NAME}_CLASSES] of the last prediction$null_before. */
const int32_t *${name}_logits(void);
"""

LEARNER_ERRORS = """\
#define ${NAME}_ERROR_NOT_STARTED (-3) /* ${name}_start comes first */
#define ${NAME}_ERROR_LABEL (-4) /* no such class */
#define ${NAME}_ERROR_RANGE (-5) /* a number is outside of its range */
#define ${NAME}_ERROR_SAVED (-6) /* the saved bytes are damaged, or of another network */

#define ${NAME}_ARENA_BYTES $arena /* all that is learned, as a .zge file */
#define ${NAME}_BATCH $batch /* most samples of one learning step */
"""

LEARNER_HEADER = """
/* Begin: with the network as exported where `saved` is null, else with the ${NAME}_ARENA_BYTES that
 * ${name}_seal gave once. All of it is checked. Returns 0 or ${NAME}_ERROR_SAVED. */
int ${name}_start(const uint8_t *saved);

/* One learning step: codes x [${NAME}_INPUTS] of class `label`, together with `replay` remembered
 * samples (0 .. ${NAME}_BATCH - 1), rewires at most one row and remembers x. Returns what was
 * predicted before learning, or ${NAME}_ERROR_NOT_STARTED, _LABEL or _RANGE. */
int ${name}_learn(const uint8_t *x, uint32_t label, uint32_t replay);

/* The same with raw values, of which those that are clamped are counted in the arena.
 * Also fails with ${NAME}_ERROR_INPUT; nothing is learned then. */
int ${name}_learn_raw(const float *x, uint32_t label, uint32_t replay);

/* Learning rate, above 0 and at most 8, in units of the float network, and what learns: 0 all,
 * 1 the last layer, 2 nothing. Returns 0, ${NAME}_ERROR_NOT_STARTED or ${NAME}_ERROR_RANGE. */
int ${name}_configure(float rate, uint32_t what);

/* Forget every remembered sample. Returns 0 or ${NAME}_ERROR_NOT_STARTED. */
int ${name}_forget(void);

/* The arena [${NAME}_ARENA_BYTES] as a whole .zge file, to be stored before the next call; null
 * before ${name}_start. It holds remembered samples. */
const uint8_t *${name}_seal(void);
"""

HEADER_END = """
#ifdef __cplusplus
}
#endif
#endif
"""

TOP = """\
/* $name.c
 *
 * $about
 *
 * The functions named zge_... are those of zgedge's core, of which only what this network needs is
 * here. zgedge is under this licence:
 *
$licence
 */
#include "$name.h"

#include <stddef.h>

#if defined(__STDC_HOSTED__) && __STDC_HOSTED__
#include <string.h>
#else
void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
#endif

/* Every float is one operation, rounded to 32 bits. Compilers that are told to take liberties, or
 * that keep more bits than they should, would give other integers. */
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#error "compile without -ffast-math and its parts"
#endif
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "compile with float arithmetic of 32 bits (on 32-bit x86: -msse2 -mfpmath=sse)"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

/* ---- the core ---- */

$core
/* ---- the network ---- */

$constants
const char *const ${name}_class_names[${NAME}_CLASSES] = {
    $class_names};

"""

PREDICTOR = """\
_Alignas(8) static uint8_t net_ram[${NAME}_RAM_BYTES];

static const zge_model net = {
$fields
};

"""

LEARNER = """\
/* What of the arena is not zero at first, one piece after the other. */
static const struct {
    uint32_t offset, bytes;
} net_pieces[] = {$pieces};

_Alignas(8) static uint8_t net_arena[${NAME}_ARENA_BYTES];
static zge_model net; /* its arena is null before the start */

_Static_assert(sizeof net_arena + sizeof net <= ${NAME}_RAM_BYTES, "more RAM than the header says");

"""

PREDICT = """\
/* ---- the calls ---- */

int ${name}_quantize(const float *x, uint8_t *codes) {
    const zge_column column = {ZGE_C_F32, x};
$ready    if (zge_check_finite(&net, x, 1) != ZGE_OK) {
        return ${NAME}_ERROR_INPUT;
    }
    return (int)zge_fetch_run(&net, &column, 0, ${NAME}_INPUTS, codes);
}

int ${name}_predict(const uint8_t *x, uint8_t *scores) {
    const zge_column column = {ZGE_C_CODES, x};
    uint16_t weights[${NAME}_CLASSES];
    uint32_t best;
$ready    $run
    zge_forward(&net, 1);
    const uint32_t sum = zge_softmax(&net, 1, 0, &best, scores == NULL ? NULL : weights);
    for (uint32_t c = 0; scores != NULL && c < ${NAME}_CLASSES; c++) {
        scores[c] = (uint8_t)((zge_share(weights[c], sum) * 255u + 16384u) >> 15);
    }
    return zge_share(zge_exp[0], sum) < net.unknown ? ${NAME}_UNKNOWN : (int)best;
}

const int32_t *${name}_logits(void) { return net.logits; }
"""

RUN = "zge_quantize_columns(&net, &column, 1, 1);"
RUN_TRUNK = "zge_trunk_run(&net, &column, 1, 0);"

READY = """\
    if (net.arena == NULL) {
        return ${NAME}_ERROR_NOT_STARTED;
    }
"""

LEARN = """
int ${name}_start(const uint8_t *saved) {
    if (saved != NULL) {
        memcpy(net_arena, saved, sizeof net_arena);
    } else {
        const uint8_t *from = net_image;
        memset(net_arena, 0, sizeof net_arena);
        for (size_t i = 0; i < sizeof net_pieces / sizeof net_pieces[0]; i++) {
            memcpy(net_arena + net_pieces[i].offset, from, net_pieces[i].bytes);
            from += net_pieces[i].bytes;
        }
    }
    if (zge_model_open(&net, net_arena, sizeof net_arena, NULL) != ZGE_OK ||
        net.inputs != ${NAME}_INPUTS || net.classes != ${NAME}_CLASSES ||
        net.batch != ${NAME}_BATCH || !net.learning) {
        net.arena = NULL;
        return ${NAME}_ERROR_SAVED;
    }
    return 0;
}

static int net_learn(uint32_t kind, const void *x, uint32_t label, uint32_t replay) {
    const uint16_t labels[1] = {(uint16_t)label};
    int32_t was;
$ready    if (label >= net.known) {
        return ${NAME}_ERROR_LABEL;
    }
    if (replay >= ${NAME}_BATCH) {
        return ${NAME}_ERROR_RANGE;
    }
    if (zge_step_any(&net, kind, x, labels, 1, replay, &was, NULL) != ZGE_OK) {
        return ${NAME}_ERROR_INPUT;
    }
    return (int)was;
}

int ${name}_learn(const uint8_t *x, uint32_t label, uint32_t replay) {
    return net_learn(ZGE_C_CODES, x, label, replay);
}

int ${name}_learn_raw(const float *x, uint32_t label, uint32_t replay) {
    return net_learn(ZGE_C_F32, x, label, replay);
}

int ${name}_configure(float rate, uint32_t what) {
    zge_config config;
$ready    zge_learner_config(&net, &config);
    config.rate = rate;
    config.learn = what;
    return zge_learner_configure(&net, &config) == ZGE_OK ? 0 : ${NAME}_ERROR_RANGE;
}

int ${name}_forget(void) {
$ready    zge_replay_clear(&net);
    return 0;
}

const uint8_t *${name}_seal(void) { return zge_model_seal(&net) == ZGE_OK ? net_arena : NULL; }
"""
