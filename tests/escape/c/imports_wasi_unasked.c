// attack: writes to a descriptor where WASI is off
// expect: rejected
// says: WASI is off
#include "terrarium.h"
__attribute__((import_module("wasi_snapshot_preview1"), import_name("fd_write")))
extern int fd_write_(int, const void *, int, int *);
terrarium_result terrarium_call(terrarium_bytes input) {
    int written = 0;
    struct { const void *data; size_t len; } out = {input.data, input.len};
    fd_write_(1, &out, 1, &written);
    return terrarium_ok(input.data, input.len);
}
