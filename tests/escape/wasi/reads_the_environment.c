// attack: looks for variables, arguments and a working folder
// expect: finished
// output: 0 arguments, 0 variables, no folder
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
extern char **environ;
int main(int argc, char **argv) {
    int variables = 0;
    (void)argv;
    for (char **v = environ; v && *v; v++) variables++;
    if (getenv("PATH") || getenv("HOME") || getenv("OPENAI_API_KEY")) variables++;
    printf("%d arguments, %d variables, %s", argc, variables, access(".", F_OK) ? "no folder" : "a folder");
}
