// attack: sends through a socket that nobody gave it
// expect: trap | guest-error
#include <sys/socket.h>
int main(void) {
    char byte = 0;
    for (int fd = 3; fd < 100; fd++)
        if (send(fd, &byte, 1, 0) >= 0 || recv(fd, &byte, 1, 0) >= 0) return 0;
    return 1;
}
