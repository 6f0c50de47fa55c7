// attack: reads a host file with an assembler directive
// expect: compile-error
// never: root:
#include "terrarium.h"
__asm__(".section .data,\"\",@\nstolen: .incbin \"/etc/passwd\"\n.size stolen, 10\n");
terrarium_result terrarium_call(terrarium_bytes input) { return terrarium_ok(input.data, input.len); }
