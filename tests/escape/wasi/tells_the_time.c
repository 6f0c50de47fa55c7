// attack: looks for the host's time of day
// expect: finished
// output: 946684800 0
#include <stdio.h>
#include <time.h>
int main(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    printf("%lld %ld", (long long)now.tv_sec, now.tv_nsec);
}
