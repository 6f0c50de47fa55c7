// attack: reads a gigabyte from an input of three bytes
// expect: finished
// input: abc
// output: 3 0 0
#include <stdio.h>
#include <unistd.h>
int main(void) {
    static char buffer[64];
    long first = read(0, buffer, 0x7fffffff), second = read(0, buffer, 0x7fffffff);
    long third = fread(buffer, 1, sizeof buffer, stdin);
    printf("%ld %ld %ld", first, second, third);
}
