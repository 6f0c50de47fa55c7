// attack: uses descriptors that nobody gave it
// expect: finished
// output: 0 forged
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
int main(void) {
    int forged = 0;
    char byte = 0;
    struct stat data;
    for (int fd = 3; fd < 3000; fd++) {
        forged += write(fd, &byte, 1) >= 0;
        forged += read(fd, &byte, 1) >= 0;
        forged += lseek(fd, 0, SEEK_SET) >= 0;
        forged += fstat(fd, &data) == 0;
        forged += close(fd) == 0;
    }
    printf("%d forged", forged);
}
