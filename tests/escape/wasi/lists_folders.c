// attack: lists, makes, renames and removes what is there
// expect: finished
// output: 0 done
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
int main(void) {
    struct stat data;
    int done = 0;
    done += opendir("/") != 0;
    done += opendir(".") != 0;
    done += mkdir("x", 0700) == 0;
    done += rename("/etc/passwd", "y") == 0;
    done += unlink("/etc/passwd") == 0;
    done += symlink("/etc/passwd", "z") == 0;
    done += stat("/etc", &data) == 0;
    done += lstat("/etc/passwd", &data) == 0;
    printf("%d done", done);
}
