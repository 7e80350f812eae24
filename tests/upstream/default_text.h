/* The text that the sandbox is trained on unless told otherwise: text/stories.txt, in the program.
 */
#ifndef DEFAULT_TEXT_H
#define DEFAULT_TEXT_H

extern const char default_text[]; /* terminated */

#endif
