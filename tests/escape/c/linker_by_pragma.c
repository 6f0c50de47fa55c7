// attack: gives the linker options and files through pragmas
// expect: finished | compile-error
// never: root:
// input: abc
#pragma comment(linker, "--export-all")
#pragma comment(lib, "/etc/passwd")
#pragma clang system_header
#include "terrarium.h"
terrarium_result terrarium_call(terrarium_bytes input) { return terrarium_ok(input.data, input.len); }
