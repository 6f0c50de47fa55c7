// attack: takes memory until there is none, and uses it
// expect: finished
// says: none left
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
    char *volatile piece;
    while ((piece = malloc(1 << 20))) memset(piece, 1, 4096);
    fputs("none left", stderr);
}
