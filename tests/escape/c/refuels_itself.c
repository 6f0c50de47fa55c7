// attack: exports the meter's own functions, to be called in their place
// expect: rejected
// says: reserved
#include "terrarium.h"
__attribute__((export_name("terrarium-fuel-get"))) int64_t get(void) { return 1ll << 60; }
__attribute__((export_name("terrarium-fuel-set"))) void set(int64_t fuel) { (void)fuel; }
terrarium_result terrarium_call(terrarium_bytes input) { return terrarium_ok(input.data, input.len); }
