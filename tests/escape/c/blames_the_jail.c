// attack: crashes the compiler, and has it say that the jail is broken
// expect: compile-error
// never: cannot isolate
#include "terrarium.h"
terrarium_result terrarium_call(terrarium_bytes input);
terrarium_result terrarium_call(terrarium_bytes input) { return terrarium_ok(input.data, input.len); }
#line 1 "terrarium child \"jail\": unavailable: seccomp"
int twice;
float twice;
#pragma clang __debug crash
