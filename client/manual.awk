# Makes the pages of libcompletion's functions out of completion.h: one for each of its sections,
# and one for each function that points to it.
#
#     awk -v into=FOLDER -f manual.awk completion.h completion.h
#
# A section begins with a comment between dashes. In it a comment belongs to the declarations that
# follow without an empty line, and one that nothing follows to the section. In comments, paragraphs
# are separated by empty lines, and lines that are indented by four are literal, or an entry of a
# list if they begin with a dash.

BEGIN {
    page["Errors"] = "completion_error"
    page["Clients"] = "completion_client"
    page["Requests"] = "completion_request"
    page["Calls that block"] = "completion_create"
    page["Calls in an event loop"] = "completion_call"
    page["Results"] = "completion_result"
    page["Streams made whole"] = "completion_gather"
    what["Errors"] = "why a call of libcompletion failed"
    what["Clients"] = "connections to completiond"
    what["Requests"] = "what to ask for"
    what["Calls that block"] = "ask completiond, and wait for the answer"
    what["Calls in an event loop"] = "ask completiond, without waiting"
    what["Results"] = "what was answered"
    what["Streams made whole"] = "join the chunks of a stream"
}

function fail(text) {
    print FILENAME ":" NR ": " text | "cat >&2"
    failed = 1
    exit 1
}

# ---- Text ----

# A word as mdoc wants it, with what stands around it.
function word(w,    before, after, name) {
    before = after = ""
    while (w ~ /^[("]/) {
        before = before substr(w, 1, 1)
        w = substr(w, 2)
    }
    if (match(w, /[.,;:)"]+$/) && w !~ /\(\)$/) {
        after = substr(w, RSTART)
        w = substr(w, 1, RSTART - 1)
    }
    # "f())." ends in its own parentheses and one of the text's.
    if (w ~ /^[a-z_0-9]+\($/) {
        w = w ")"
        after = substr(after, 2)
    }
    if (w ~ /^completion_[a-z_]+\(\)$/) {
        name = substr(w, 1, length(w) - 2)
        return macro(section[name] == title ? "Fn " name : "Xr " name " 3", before, after)
    }
    if (w ~ /^_?[a-z_0-9]+\(\)$/)
        return macro("Fn " substr(w, 1, length(w) - 2), before, after)
    if (w ~ /^-E[A-Z]+$/)
        return macro("Er " w, before, after)
    if (w ~ /^COMPLETION_[A-Z_]+$/)
        return macro("Dv " w, before, after)
    if (w ~ /^completion\([0-9]\)$/)
        return macro("Xr completion 7", before, after)
    gsub(/`/, "", w)
    return before w after
}

# A line of its own; punctuation goes into arguments of its own.
function macro(text, before, after,    i) {
    if (before == "(" && after ~ /^\)/) {
        text = "Pq " text
        after = substr(after, 2)
    } else if (before != "") {
        text = "No \\&" before " Ns " text
    }
    for (i = 1; i <= length(after); i++)
        text = text " " substr(after, i, 1)
    return "\n." text "\n"
}

# A paragraph: each sentence on lines of its own, none of them long, none a command by chance.
function fill(text,    n, words, i, out, w, column) {
    n = split(text, words, " ")
    out = ""
    column = 0
    for (i = 1; i <= n; i++) {
        w = word(words[i])
        if (w ~ /^\n/) {
            out = out (column > 0 ? w : substr(w, 2))
            column = 0
            continue
        }
        sub(/^-/, "\\-", w)
        if (column > 0 && column + length(w) > 76) {
            out = out "\n"
            column = 0
        }
        if (column == 0 && w ~ /^[.']/)
            w = "\\&" w
        out = out (column > 0 ? " " : "") w
        column += length(w) + 1
        if (w ~ /[.?!]$/ && i < n) {
            out = out "\n"
            column = 0
        }
    }
    return out (column > 0 ? "\n" : "")
}

function end_paragraph() {
    if (paragraph == "")
        return
    if (in_list) {
        text = text ".It\n" fill(paragraph)
    } else {
        text = text (is_first ? "" : ".Pp\n") fill(paragraph)
        is_first = 0
    }
    paragraph = ""
}

function end_list() {
    end_paragraph()
    if (in_list)
        text = text ".El\n"
    in_list = 0
}

function end_literal() {
    if (in_literal)
        text = text ".Ed\n"
    in_literal = 0
}

# The comment's lines as mdoc.
function format(comment,    n, lines, i, line) {
    text = paragraph = ""
    in_list = in_literal = 0
    is_first = 1
    n = split(comment, lines, "\n")
    for (i = 1; i <= n; i++) {
        line = lines[i]
        if (line ~ /^    / && !in_list) {
            end_paragraph()
            if (!in_literal)
                text = text ".Bd -literal -offset indent\n"
            in_literal = 1
            gsub(/\\/, "\\e", line)
            text = text substr(line, 5) "\n"
        } else if (line ~ /^  - /) {
            end_literal()
            end_paragraph()
            if (!in_list)
                text = text ".Bl -bullet -compact\n"
            in_list = 1
            paragraph = substr(line, 5)
        } else if (line ~ /^ *$/) {
            if (in_literal && i < n && lines[i + 1] ~ /^    /)
                text = text "\n"
            else
                end_literal()
            end_list()
        } else {
            end_literal()
            if (in_list && line !~ /^    /)
                end_list()
            sub(/^ */, "", line)
            paragraph = paragraph " " line
        }
    }
    end_literal()
    end_list()
    return text
}

# ---- Declarations ----

# The name of the function that a declaration declares.
function name_of(declaration) {
    match(declaration, /completion_[a-z0-9_]+\(/)
    return substr(declaration, RSTART, RLENGTH - 1)
}

# Splits parameters at the commas outside of parentheses.
function parameters(list, out,    n, depth, i, c, one) {
    n = depth = 0
    one = ""
    for (i = 1; i <= length(list); i++) {
        c = substr(list, i, 1)
        depth += c == "(" ? 1 : c == ")" ? -1 : 0
        if (c == "," && depth == 0) {
            out[++n] = one
            one = ""
        } else if (c != " " || one != "") {
            one = one c
        }
    }
    if (one != "" && one != "void")
        out[++n] = one
    return n
}

function synopsis(declaration,    name, type, list, n, i, out, params) {
    name = name_of(declaration)
    type = substr(declaration, 1, index(declaration, name) - 1)
    sub(/ *$/, "", type)
    list = substr(declaration, index(declaration, name) + length(name) + 1)
    sub(/\);$/, "", list)
    n = parameters(list, params)
    out = ".Ft \"" type "\"\n.Fo " name "\n"
    for (i = 1; i <= n; i++)
        out = out ".Fa \"" params[i] "\"\n"
    if (n == 0)
        out = out ".Fa void\n"
    return out ".Fc\n"
}

# ---- Pages ----

function end_page(    file, i) {
    if (title == "")
        return
    file = into "/" page[title] ".3"
    print ".\\\" Made from completion.h." > file
    print ".Dd June 1, 2025\n.Dt " toupper(page[title]) " 3\n.Os\n.Sh NAME" > file
    for (i = 1; i <= n_names; i++)
        print ".Nm " names[i] (i < n_names ? " ," : "") > file
    print ".Nd " what[title] "\n.Sh LIBRARY\nlibcompletion (libcompletion, \\-lcompletion)" > file
    print ".Sh SYNOPSIS\n.In completion.h" > file
    printf "%s", prototypes > file
    print ".Sh DESCRIPTION" > file
    printf "%s", intro > file
    if (items != "")
        printf ".Bl -tag -width Ds\n%s.El\n", items > file
    print ".Sh SEE ALSO" > file
    for (i = 1; i <= n_order; i++)
        if (order[i] != page[title])
            print ".Xr " order[i] " 3 ," > file
    print ".Xr libcompletion 3 ,\n.Xr completion 7 ,\n.Xr completiond 8" > file
    close(file)
    for (i = 1; i <= n_names; i++)
        if (names[i] != page[title]) {
            print ".so man3/" page[title] ".3" > (into "/" names[i] ".3")
            close(into "/" names[i] ".3")
        }
}

function end_item() {
    if (tags == "" && comment != "")
        intro = intro (intro == "" ? "" : ".Pp\n") format(comment)
    else if (tags != "" || body != "")
        items = items ".It Xo\n" tags "\n.Xc\n" (comment == "" ? "" : format(comment)) body
    comment = tags = body = ""
}

function declare(declaration,    name) {
    name = name_of(declaration)
    if (name == "")
        fail("what is " declaration)
    names[++n_names] = name
    prototypes = prototypes synopsis(declaration)
    tags = tags (tags == "" ? "" : " ,\n") ".Fn " name
}

# Names are needed before the text that mentions them, so the file is read twice.
FNR == NR {
    while (match($0, /completion_[a-z0-9_]+\(/) && $0 !~ /^ \*|^\/\*/) {
        section[substr($0, RSTART, RLENGTH - 1)] = title
        $0 = substr($0, RSTART + RLENGTH)
    }
    if (match($0, /^\/\* ---- .* ---- \*\/$/)) {
        title = substr($0, 9, length($0) - 16)
        if (!(title in page))
            fail("no page for the section " title)
        order[++n_order] = page[title]
    }
    next
}

FNR == 1 {
    title = ""
    for (i = 2; i <= n_order; i++)
        for (k = i; k > 1 && order[k - 1] > order[k]; k--) {
            swap = order[k]
            order[k] = order[k - 1]
            order[k - 1] = swap
        }
}

/^#ifdef __cplusplus/ && title != "" {
    end_item()
    end_page()
    title = ""
}

/^\/\* ---- .* ---- \*\/$/ {
    end_item()
    end_page()
    title = substr($0, 9, length($0) - 16)
    n_names = 0
    prototypes = intro = items = ""
    next
}

title == "" { next }

# Comments.
in_comment || /^\/\*/ {
    line = $0
    if (!in_comment) {
        # Another one in the same block is that of the declarations behind it.
        end_item()
        sub(/^\/\* ?/, "", line)
    }
    in_comment = !sub(/ *\*\/$/, "", line)
    sub(/^ \* ?/, "", line)
    comment = comment (comment == "" ? "" : "\n") line
    next
}

/^$/ {
    end_item()
    next
}

# Types are shown as they are.
/^(enum|struct) [a-z_]+ \{/ { in_type = 1 }
in_type {
    body = body (body == "" ? ".Li " $1 " " $2 : "")
    type = type $0 "\n"
    if (/^}/) {
        in_type = 0
        tags = body
        body = ".Bd -literal -offset indent\n" type ".Ed\n"
        type = ""
    }
    next
}

{
    sub(/^ +/, "")
    declaration = declaration (declaration == "" ? "" : " ") $0
    if (/;$/) {
        declare(declaration)
        declaration = ""
    }
}

END {
    if (failed)
        exit 1
}
