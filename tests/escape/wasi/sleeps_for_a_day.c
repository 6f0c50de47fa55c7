// attack: sleeps for a day, out of reach of any meter
// expect: finished
// limits: wall_ms=4000
// output: 86400 seconds later
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    sleep(86400);
    clock_gettime(CLOCK_MONOTONIC, &after);
    printf("%d seconds later", (int)(after.tv_sec - before.tv_sec));
}
