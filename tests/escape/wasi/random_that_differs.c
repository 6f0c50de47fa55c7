// attack: looks for random numbers that differ between runs
// expect: finished
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(void) {
    unsigned char bytes[64];
    if (getentropy(bytes, sizeof bytes)) return 1;
    for (unsigned i = 0; i < sizeof bytes; i++) printf("%02x", bytes[i]);
    printf(" %u %p", arc4random(), malloc(100));
}
