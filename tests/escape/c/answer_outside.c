// attack: an answer of four gigabytes
// expect: trap | output-too-large
#include "terrarium.h"
terrarium_result terrarium_call(terrarium_bytes input) {
    (void)input;
    return terrarium_ok((void *)8, 0xffffffff);
}
