// What completion.hpp's results are when they are moved: no two own the same, and what was moved
// from is none. Ends with 0, or the number of what is not so.
#include <completion.hpp>
#include <utility>

int main()
{
    completion::client client;
    completion::request request;

    request.model("gpt-3.5-turbo-instruct").prompt("Once upon a time").max_tokens(4).seed(1);
    completion::result first = client.create(request);
    const std::string text = first.text().str();
    completion::result second = std::move(first);
    if (first || !second || second.text().str() != text)
        return 1;
    first = client.create(request);
    first = std::move(second);
    if (second || !first || first.text().str() != text)
        return 2;
    completion::result copy = first.copy();
    std::swap(first, copy);
    return first && copy && first.get() != copy.get() ? 0 : 3;
}
