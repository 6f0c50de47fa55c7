// attack: opens files of the host by every name that it can think of
// expect: finished
// output: 0 opened
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    const char *names[] = {"/etc/passwd", "etc/passwd", "../../../etc/passwd", "./../etc/passwd", ".", "/", "",
                           "/proc/self/environ", "/dev/stdin", "file:///etc/passwd", "//etc//passwd", "/etc\0/x"};
    int opened = 0;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (fopen(names[i], "r")) opened++;
        if (open(names[i], O_CREAT | O_WRONLY, 0600) >= 0) opened++;
        for (int fd = 0; fd < 16; fd++)
            if (openat(fd, names[i], O_RDONLY) >= 0) opened++;
    }
    printf("%d opened", opened);
}
