// attack: takes memory until there is none, and uses it
// expect: finished
// says: none left
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
    char *piece;
    size_t size = 1 << 20;
    while ((piece = malloc(size))) memset(piece, 1, 4096);
    fputs("none left", stderr);
}
