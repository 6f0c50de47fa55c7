// attack: waits for four thousand timers at once, again and again
// expect: finished | quota | trap
#include <stdlib.h>
#include <wasi/api.h>
int main(void) {
    enum { N = 4000 };
    __wasi_subscription_t *in = calloc(N, sizeof *in);
    __wasi_event_t *out = calloc(N, sizeof *out);
    for (int i = 0; i < N; i++) {
        in[i].u.tag = __WASI_EVENTTYPE_CLOCK;
        in[i].u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
        in[i].u.u.clock.timeout = 1000000000ull * (i + 1);
    }
    for (int round = 0; round < 10; round++) {
        __wasi_size_t count = 0;
        if (__wasi_poll_oneoff(in, out, N, &count)) return 1;
    }
}
