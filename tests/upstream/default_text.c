/* The assembler reads the file, so that the program needs no path. */
#include "default_text.h"

__asm__(".pushsection .rodata\n"
        ".global default_text\n"
        ".hidden default_text\n"
        "default_text:\n"
        ".incbin \"" DEFAULT_TEXT_FILE "\"\n"
        ".byte 0\n"
        ".popsection\n");
