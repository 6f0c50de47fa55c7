// attack: imports a function of the host that is none, by assembler directives
// expect: rejected
// says: unknown import
#include "terrarium.h"
__asm__(".functype system (i32) -> (i32)\n.import_module system, env\n.import_name system, system\n");
extern int system_(const char *) __asm__("system");
terrarium_result terrarium_call(terrarium_bytes input) {
    input.data[0] = (uint8_t)system_("id");
    return terrarium_ok(input.data, input.len);
}
