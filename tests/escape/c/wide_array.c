// attack: a gigabyte of data that is not zero
// expect: compile-error | deadline | rejected
#include "terrarium.h"
char data[1 << 30] = {[(1 << 30) - 1] = 1};
terrarium_result terrarium_call(terrarium_bytes input) { return terrarium_ok(data, 1); }
