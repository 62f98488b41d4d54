// llama-logits MODEL THREADS: the logits that llama.cpp computes of given tokens.
// Each line of standard input is a text, as token ids. Standard output gets, for each token of each text, the logits of
// the token after it: one f32 for each id of the vocabulary, in this machine's byte order.

#include "llama.h"

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

// Positions of the longest text.
static const int CONTEXT = 512;

static int fail(const std::string & why) {
    fprintf(stderr, "llama-logits: %s\n", why.c_str());
    return 1;
}

int main(int argc, char ** argv) {
    if (argc != 3) {
        return fail("usage: llama-logits MODEL THREADS");
    }
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        return fail(std::string("cannot load ") + argv[1]);
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT;
    params.n_threads = params.n_threads_batch = atoi(argv[2]);
    llama_context * context = llama_init_from_model(model, params);
    if (!context) {
        return fail("cannot make a context");
    }
    const size_t vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_batch batch = llama_batch_init(CONTEXT, 0, 1);
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream ids(line);
        batch.n_tokens = 0;
        for (llama_token id; ids >> id; batch.n_tokens++) {
            const int i = batch.n_tokens;
            if (i == CONTEXT) {
                return fail("a text has more tokens than " + std::to_string(CONTEXT));
            }
            batch.token[i] = id;
            batch.pos[i] = i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        llama_memory_clear(llama_get_memory(context), true);
        if (llama_decode(context, batch) != 0) {
            return fail("cannot compute the text " + line);
        }
        for (int i = 0; i < batch.n_tokens; i++) {
            if (fwrite(llama_get_logits_ith(context, i), sizeof(float), vocab, stdout) != vocab) {
                return fail("cannot write");
            }
        }
    }
    llama_batch_free(batch);
    llama_free(context);
    llama_model_free(model);
    return fflush(stdout) == 0 ? 0 : fail("cannot write");
}
