// attack: a constructor that never ends
// expect: out-of-fuel
#include "terrarium.h"
static volatile int n;
__attribute__((constructor)) static void spin(void) { for (;;) n++; }
terrarium_result terrarium_call(terrarium_bytes input) { return terrarium_ok(input.data, input.len); }
