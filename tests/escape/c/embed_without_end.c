// attack: embeds a file that has no end
// expect: compile-error
static const unsigned char zeros[] = {
#embed "/dev/zero"
};
