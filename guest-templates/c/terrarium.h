/* The `function` world for candidates in C: bytes in, bytes out.
 *
 * Include this once, in the one file that a candidate consists of, and define
 *
 *     terrarium_result terrarium_call(terrarium_bytes input);
 *
 * It is called once in a fresh instance. `input` is readable and writable
 * until it returns. Nothing needs to be freed: the instance is dropped.
 *
 *     #include "terrarium.h"
 *     terrarium_result terrarium_call(terrarium_bytes input) {
 *         for (size_t i = 0, j = input.len; i + 1 < j; i++) {
 *             uint8_t t = input.data[i]; input.data[i] = input.data[--j]; input.data[j] = t;
 *         }
 *         return terrarium_ok(input.data, input.len);
 *     }
 *
 * With wasi-libc the standard library is there too. What needs an operating
 * system (files, printf to a stream, clocks) imports WASI, which is refused
 * unless the task turns it on; malloc, qsort, snprintf, math and the like
 * import nothing. Without wasi-libc the candidate is freestanding.
 */
#ifndef TERRARIUM_H
#define TERRARIUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#if __has_include(<stdlib.h>)
#include <stdlib.h>
#define TERRARIUM_LIBC 1
#endif

typedef struct { uint8_t *data; size_t len; } terrarium_bytes;

/* `bytes` is the output, or the text of an error (UTF-8). */
typedef struct { bool failed; terrarium_bytes bytes; } terrarium_result;

/* Defined by the candidate. */
terrarium_result terrarium_call(terrarium_bytes input);

static inline size_t terrarium_length(const char *text) {
    size_t length = 0;
    while (text[length]) length++;
    return length;
}

static inline terrarium_result terrarium_ok(const void *data, size_t len) {
    return (terrarium_result){false, {(uint8_t *)data, len}};
}

static inline terrarium_result terrarium_error(const char *text) {
    return (terrarium_result){true, {(uint8_t *)text, terrarium_length(text)}};
}

#define TERRARIUM_IMPORT(interface, name) \
    __attribute__((import_module("terrarium:guest/" interface "@0.1.0"), import_name(name)))
#define TERRARIUM_EXPORT(name) __attribute__((export_name(name)))

typedef enum { TERRARIUM_LINEAR = 0, TERRARIUM_LOGARITHMIC = 1 } terrarium_scale;

TERRARIUM_IMPORT("report", "log")
extern void terrarium_import_log(const char *text, size_t len);
TERRARIUM_IMPORT("report", "metric")
extern void terrarium_import_metric(const char *name, size_t len, uint64_t step, double value);
TERRARIUM_IMPORT("knobs", "number")
extern double terrarium_import_number(const char *, size_t, double, double, double, int32_t);
TERRARIUM_IMPORT("knobs", "integer")
extern int64_t terrarium_import_integer(const char *, size_t, int64_t, int64_t, int64_t, int32_t);
TERRARIUM_IMPORT("knobs", "choice")
extern uint32_t terrarium_import_choice(const char *, size_t, uint32_t, const terrarium_bytes *, size_t);

/* A line of the log (UTF-8; what is over the quota is dropped). */
static inline void terrarium_log(const char *text) { terrarium_import_log(text, terrarium_length(text)); }

/* A figure over time, for people to look at. It is never a score. */
static inline void terrarium_metric(const char *name, uint64_t step, double value) {
    terrarium_import_metric(name, terrarium_length(name), step, value);
}

/* Tunables, declared where they are read: the value that this candidate was
 * given, or `initial`. low <= initial <= high; low > 0 on a logarithmic scale. */
static inline double terrarium_knob(const char *name, double initial, double low, double high,
                                    terrarium_scale scale) {
    return terrarium_import_number(name, terrarium_length(name), initial, low, high, scale);
}
static inline int64_t terrarium_knob_integer(const char *name, int64_t initial, int64_t low, int64_t high,
                                             terrarium_scale scale) {
    return terrarium_import_integer(name, terrarium_length(name), initial, low, high, scale);
}
/* The number of the chosen option, of at most 64. */
static inline uint32_t terrarium_knob_choice(const char *name, uint32_t initial, const char *const *options,
                                             size_t count) {
    terrarium_bytes list[64];
    if (count > 64) count = 64;
    for (size_t i = 0; i < count; i++)
        list[i] = (terrarium_bytes){(uint8_t *)options[i], terrarium_length(options[i])};
    return terrarium_import_choice(name, terrarium_length(name), initial, list, count);
}

/* Memory for the host's arguments, by the canonical ABI. Candidates may use it
 * where there is no malloc; it is never given back there. Traps when the
 * instance's memory is used up. */
TERRARIUM_EXPORT("cabi_realloc")
void *terrarium_realloc(void *old, size_t old_size, size_t align, size_t size) {
#ifdef TERRARIUM_LIBC
    (void)old_size;
    if (align > 16) __builtin_trap();
    void *place = realloc(old, size ? size : 1);
    if (!place) __builtin_trap();
    return place;
#else
    static uintptr_t next, end;
    uintptr_t start = (next + align - 1) & ~(uintptr_t)(align - 1);
    if (start < next || start + size < start) __builtin_trap();
    if (start + size > end) {
        size_t pages = (size + align + 65535) / 65536;
        size_t grown = __builtin_wasm_memory_grow(0, pages);
        if (grown == (size_t)-1) __builtin_trap();
        /* What others took in between is left alone. */
        if (grown * 65536 != end) start = grown * 65536;
        end = (grown + pages) * 65536;
    }
    next = start + size;
    if (old) __builtin_memcpy((void *)start, old, old_size < size ? old_size : size);
    return (void *)start;
#endif
}

typedef struct { uint32_t failed; const uint8_t *data; uint32_t len; } terrarium_returned;

TERRARIUM_EXPORT("call")
const terrarium_returned *terrarium_export_call(uint8_t *data, size_t len) {
    static terrarium_returned returned;
    terrarium_result result = terrarium_call((terrarium_bytes){data, len});
    returned = (terrarium_returned){result.failed, result.bytes.data, result.bytes.len};
    return &returned;
}

#endif
