// attack: ends with success after half of its output, from inside an exit handler
// expect: finished
// output: half
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static void last(void) { _exit(0); }
int main(void) {
    atexit(last);
    write(1, "half", 4);
    exit(77);
}
