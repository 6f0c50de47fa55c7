// attack: ends with a status that means "out of fuel" elsewhere, and an output
// expect: guest-error
// says: status
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    puts("{\"outcome\": \"finished\"}");
    fputs("worker died", stderr);
    exit(134);
}
