/* driver.c: loops that time other runtimes and the core from C. Compiled when a benchmark runs.
 *
 * Nothing is linked: the callers hand over the functions, which they found with dlsym. The
 * prototypes below are those of the public LiteRT C API (litert/c/litert_*.h, version 2.3), as far
 * as it is used here, and of zge.h.
 *
 * Every loop walks through `samples` different inputs, so that none is predicted from the caches of
 * the branch predictor alone, and returns the nanoseconds that `iterations` calls took, or a negative
 * status of the runtime.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The interpreter: `invoke` is tflite::Interpreter::Invoke, `self` the interpreter, `in` and `out` its
 * tensors' memory. With `copy`, each call writes an input and reads the output, as an application
 * must; without, it invokes alone. */
int64_t driver_interpreter(int (*invoke)(void *), void *self, int8_t *in, const int8_t *out,
                           const int8_t *x, size_t inputs, size_t samples, int8_t *y, size_t outputs,
                           int64_t iterations, int copy) {
    size_t at = 0;
    int64_t start = now();
    for (int64_t i = 0; i < iterations; i++) {
        if (copy) {
            memcpy(in, x + at * inputs, inputs);
        }
        int status = invoke(self);
        if (status != 0) {
            return -(int64_t)status;
        }
        if (copy) {
            memcpy(y + at * outputs, out, outputs);
            at = at + 1 == samples ? 0 : at + 1;
        }
    }
    return now() - start;
}

/* litert/c/litert_model_types.h, litert_layout.h */
typedef struct ranked_type {
    int32_t element_type;
    uint32_t rank; /* 7 bits of rank, then the bit that says whether strides are given */
    int32_t dimensions[8];
    uint32_t strides[8];
} ranked_type;

enum { ELEMENT_INT8 = 9, HW_CPU = 1, LOCK_READ = 0, LOCK_WRITE = 1 };

typedef struct compiled {
    void *environment, *model, *options, *compiled, *buffers[2];
    int (*run)(void *, size_t, size_t, void **, size_t, void **);
    int (*lock)(void *, void **, int);
    int (*unlock)(void *);
    size_t sizes[2];
} compiled;

/* Open `model` (bytes that must live on) with one thread on the CPU accelerator, which is XNNPACK.
 * Returns 0 and *out, or a status of LiteRT, or -1 where a symbol or memory is missing. */
int driver_compiled_open(const char *path, const void *model, size_t bytes, size_t inputs, size_t outputs,
                         compiled **out) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    compiled *c = calloc(1, sizeof *c);
    if (library == NULL || c == NULL) {
        free(c);
        return -1;
    }
    int (*environment)(int, const void *, void **);
    int (*model_from)(void *, const void *, size_t, void **);
    int (*options)(void **);
    int (*accelerators)(void *, int);
    int (*opaque)(const char *, void *, void (*)(void *), void **);
    int (*add)(void *, void *);
    int (*compile)(void *, void *, void *, void **);
    int (*requirements[2])(void *, size_t, size_t, void **);
    int (*create)(void *, const ranked_type *, void *, void **);
    struct {
        const char *name;
        void *at;
    } wanted[] = {
        {"LiteRtCreateEnvironment", &environment},
        {"LiteRtCreateModelFromBuffer", &model_from},
        {"LiteRtCreateOptions", &options},
        {"LiteRtSetOptionsHardwareAccelerators", &accelerators},
        {"LiteRtCreateOpaqueOptions", &opaque},
        {"LiteRtAddOpaqueOptions", &add},
        {"LiteRtCreateCompiledModel", &compile},
        {"LiteRtGetCompiledModelInputBufferRequirements", &requirements[0]},
        {"LiteRtGetCompiledModelOutputBufferRequirements", &requirements[1]},
        {"LiteRtCreateManagedTensorBufferFromRequirements", &create},
        {"LiteRtRunCompiledModel", &c->run},
        {"LiteRtLockTensorBuffer", &c->lock},
        {"LiteRtUnlockTensorBuffer", &c->unlock},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *symbol = dlsym(library, wanted[i].name);
        if (symbol == NULL) {
            free(c);
            return -1;
        }
        memcpy(wanted[i].at, &symbol, sizeof symbol);
    }
    void *extra = NULL;
    int status = environment(0, NULL, &c->environment);
    status = status ? status : model_from(c->environment, model, bytes, &c->model);
    status = status ? status : options(&c->options);
    status = status ? status : accelerators(c->options, HW_CPU);
    if (status == 0) {
        static const char text[] = "num_threads = 1\n";
        char *payload = malloc(sizeof text);
        if (payload == NULL) {
            free(c);
            return -1;
        }
        memcpy(payload, text, sizeof text);
        status = opaque("xnnpack", payload, free, &extra);
    }
    status = status ? status : add(c->options, extra);
    status = status ? status : compile(c->environment, c->model, c->options, &c->compiled);
    c->sizes[0] = inputs;
    c->sizes[1] = outputs;
    for (int i = 0; i < 2 && status == 0; i++) {
        ranked_type type = {ELEMENT_INT8, 2, {1, (int32_t)c->sizes[i]}, {0}};
        void *need = NULL;
        status = requirements[i](c->compiled, 0, 0, &need);
        status = status ? status : create(c->environment, &type, need, &c->buffers[i]);
    }
    if (status != 0) {
        free(c); /* what LiteRT holds of a model that failed to open lives until the process ends */
        return status;
    }
    *out = c;
    return 0;
}

/* As driver_interpreter, through LiteRtRunCompiledModel and its locked tensor buffers. */
int64_t driver_compiled(compiled *c, const int8_t *x, size_t samples, int8_t *y, int64_t iterations,
                        int copy) {
    size_t at = 0;
    int64_t start = now();
    for (int64_t i = 0; i < iterations; i++) {
        void *memory = NULL;
        int status = 0;
        if (copy) {
            status = c->lock(c->buffers[0], &memory, LOCK_WRITE);
            if (status != 0) {
                return -(int64_t)status;
            }
            memcpy(memory, x + at * c->sizes[0], c->sizes[0]);
            c->unlock(c->buffers[0]);
        }
        status = c->run(c->compiled, 0, 1, &c->buffers[0], 1, &c->buffers[1]);
        if (status != 0) {
            return -(int64_t)status;
        }
        if (copy) {
            status = c->lock(c->buffers[1], &memory, LOCK_READ);
            if (status != 0) {
                return -(int64_t)status;
            }
            memcpy(y + at * c->sizes[1], memory, c->sizes[1]);
            c->unlock(c->buffers[1]);
            at = at + 1 == samples ? 0 : at + 1;
        }
    }
    return now() - start;
}

/* The core: `predict` is zge_model_predict_u8, `model` an open zge_model. It reads the raw input where
 * it lies, so there is nothing to copy. */
int64_t driver_zge(int32_t (*predict)(void *, const uint8_t *, uint32_t, int32_t *, uint16_t *),
                   void *model, const uint8_t *x, size_t inputs, size_t samples, int32_t *classes,
                   int64_t iterations) {
    size_t at = 0;
    int64_t start = now();
    for (int64_t i = 0; i < iterations; i++) {
        int32_t status = predict(model, x + at * inputs, 1, classes + at, NULL);
        if (status != 0) {
            return -(int64_t)(status < 0 ? -status : status);
        }
        at = at + 1 == samples ? 0 : at + 1;
    }
    return now() - start;
}
