// attack: writes to standard output for ever
// expect: output-too-large
#include <stdio.h>
int main(void) {
    for (;;) puts("more and more and more and more and more and more and more and more");
}
