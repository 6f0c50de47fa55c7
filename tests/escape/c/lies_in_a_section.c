// attack: a custom section that claims another world
// expect: finished
// input: abc
// output: abc
#include "terrarium.h"
__attribute__((section(".custom_section.component-type:lies"), used))
static const char lies[] = "\0asm\x0d\0\1\0 everything is allowed";
terrarium_result terrarium_call(terrarium_bytes input) { return terrarium_ok(input.data, input.len); }
