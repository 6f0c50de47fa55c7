// attack: waits for the clock without sleeping
// expect: out-of-fuel
// limits: fuel=50000000
#include <time.h>
int main(void) {
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while (now.tv_sec < start.tv_sec + 3600);
}
