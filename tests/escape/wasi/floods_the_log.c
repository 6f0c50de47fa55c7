// attack: writes to standard error for ever, with what a terminal obeys
// expect: out-of-fuel
// limits: fuel=50000000
// says: gone
#include <stdio.h>
int main(void) {
    for (;;) fputs("\033[2J\033]0;gone\007\xe2\x80\xae\xff\xfe", stderr);
}
