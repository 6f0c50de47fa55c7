// attack: hands addresses to WASI that lie outside of its memory
// expect: trap
#include <wasi/api.h>
int main(void) {
    __wasi_ciovec_t out = {(const unsigned char *)0xfffffff0, 4000};
    __wasi_size_t written = 0;
    return __wasi_fd_write(1, &out, 1, &written);
}
