// attack: recursion through an array on the stack, below the stack's end
// expect: trap | stack-overflow
#include "terrarium.h"
__attribute__((noinline)) static int down(volatile char *above, int n) {
    volatile char here[4096];
    here[n % 4096] = above[0];
    return n ? down(here, n - 1) + here[1] : 0;
}
terrarium_result terrarium_call(terrarium_bytes input) {
    char start = 1;
    input.data[0] = (uint8_t)down(&start, 1000000);
    return terrarium_ok(input.data, 1);
}
