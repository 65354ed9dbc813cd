"""Which would you choose, and when; and what an interviewer asks next."""

from qkv.labs.lab import Both

CHOICES: tuple[tuple[Both, Both], ...] = (
    (
        Both("RNN or attention?", "RNN 还是注意力？"),
        Both(
            "Attention, if sequences are trained in parallel or something far back must be recalled exactly. An RNN or a "
            "state-space model, if tokens arrive one by one for ever and memory must stay constant.",
            "需要并行训练、或要精确回忆远处内容时选注意力；词元源源不断到来而内存必须恒定时，选 RNN 或状态空间模型。",
        ),
    ),
    (
        Both("Additive or scaled dot product?", "加性还是缩放点积？"),
        Both(
            "Scaled dot product: it is a matrix product. Additive, where query and memory have different widths and the "
            "scores are few, as in a recurrent decoder.",
            "一般选缩放点积，因为它就是矩阵乘法；查询与记忆宽度不同且打分次数不多时（如循环解码器）可选加性。",
        ),
    ),
    (
        Both("BERT or GPT?", "BERT 还是 GPT？"),
        Both(
            "An encoder to label, to search and to compare whole texts; a decoder to generate; an encoder–decoder where "
            "one text is turned into another and the source is read once.",
            "分类、检索、比较整段文本选编码器；生成选解码器；把一段文本变成另一段且源文本只读一次时，选编码器–解码器。",
        ),
    ),
    (
        Both("LayerNorm or BatchNorm?", "层归一化还是批归一化？"),
        Both(
            "LayerNorm (or RMSNorm) for sequences: it does the same in training and in use, and padding cannot touch it. "
            "BatchNorm for images with large batches, where it costs nothing at inference.",
            "序列选层归一化（或 RMSNorm）：训练与使用时行为一致，且不受填充影响。大批量图像任务可选批归一化，推理时没有额外开销。",
        ),
    ),
    (
        Both("Pre-LN or Post-LN?", "前置还是后置归一化？"),
        Both(
            "Pre-LN with a final norm for deep models and for training that must not fail. Post-LN with warm-up when the "
            "model is shallow and the last bit of quality counts.",
            "模型较深、训练不容失败时，选前置归一化并在末尾再加一层归一化；层数较少、想榨出最后一点质量时，可选后置归一化并配合预热。",
        ),
    ),
    (
        Both("Soft or hard attention?", "软注意力还是硬注意力？"),
        Both(
            "Soft, as a rule: it trains by plain gradients and in training hard costs as much. Hard, where one place must "
            "be named, or where looking is what costs.",
            "通常选软注意力：可直接用梯度训练，而硬注意力训练时也并不省。必须指明一个位置、或“看”本身有代价时选硬注意力。",
        ),
    ),
    (
        Both("Global or local attention?", "全局还是局部注意力？"),
        Both(
            "Global until the length hurts; then a sliding window in most layers and global attention in some.",
            "序列不太长时用全局；长到成为负担后，多数层用滑动窗口，少数层保留全局。",
        ),
    ),
    (
        Both("How many heads?", "多少个头？"),
        Both(
            "As many as give heads of 64 to 128 features. Fewer key heads than query heads when generation reads a long "
            "cache.",
            "使每个头的宽度在 64 到 128 之间即可。若生成时要读很长的缓存，就让键值头少于查询头。",
        ),
    ),
)

FOLLOW_UPS: tuple[tuple[Both, Both], ...] = (
    (
        Both("Why is FlashAttention exact, and faster?", "FlashAttention 为什么既精确又更快？"),
        Both(
            "It does all the same operations, even some twice; but block by block, with a running maximum and sum, so that "
            "the matrix of scores is never written to memory. What it saves is traffic, and traffic was the limit. "
            "(Dao 2022, arXiv:2205.14135.)",
            "运算一样多，有些甚至算两次；但它逐块计算，同时维护滚动最大值与滚动和，分数矩阵从不写入内存。省下的是访存，而访存正是瓶颈。"
            "（Dao 2022，arXiv:2205.14135）",
        ),
    ),
    (
        Both("How large is the cache of a decoder?", "解码器的缓存有多大？"),
        Both(
            "2 · layers · key heads · width of a head · tokens · bytes of a number, for each sequence. 32 layers, 8 key "
            "heads of 128, 16 bits: 128 KiB a token.",
            "每个序列为 2 · 层数 · 键头数 · 头宽 · 词元数 · 每个数的字节数。32 层、8 个宽 128 的键头、16 位：每个词元 128 KiB。",
        ),
    ),
    (
        Both("Prefill against decode?", "预填充与解码有何不同？"),
        Both(
            "Prefill reads the whole prompt at once: large matrix products, limited by arithmetic. Decoding makes a token "
            "at a time: it reads all weights and the whole cache for one row, limited by memory.",
            "预填充一次读完整个提示：大矩阵乘法，受算力限制。解码每次只生成一个词元：为一行读取全部权重和整个缓存，受内存带宽限制。",
        ),
    ),
    (
        Both("Grouped-query and latent attention?", "分组查询注意力与潜在注意力？"),
        Both(
            "Grouped-query: several query heads share one key and value, so that the cache shrinks by that factor (Ainslie "
            "2023, arXiv:2305.13245). Latent: the cache keeps one compressed vector a token, from which keys and values of "
            "all heads are made, and one small rotary key (DeepSeek-V2, arXiv:2405.04434).",
            "分组查询：几个查询头共用一组键和值，缓存按此倍数缩小（Ainslie 2023，arXiv:2305.13245）。潜在注意力：每个词元只缓存一个压缩向量（由它生成所有头的键和值）"
            "和一个很小的旋转键（DeepSeek-V2，arXiv:2405.04434）。",
        ),
    ),
    (
        Both("Linear attention and state-space models?", "线性注意力与状态空间模型？"),
        Both(
            "Replace softmax(q·k) by φ(q)·φ(k), and the sum over keys becomes a state that is updated token by token: O(1) "
            "memory, an RNN in other words (Katharopoulos 2020, arXiv:2006.16236). State-space models keep such a state too, "
            "and choose what it forgets (Mamba, arXiv:2312.00752). What a fixed state cannot do is recall any of many "
            "items exactly.",
            "把 softmax(q·k) 换成 φ(q)·φ(k)，对键的求和就变成逐词元更新的状态：内存 O(1)，换言之就是一种 RNN"
            "（Katharopoulos 2020，arXiv:2006.16236）。状态空间模型也维护这样的状态，并能选择遗忘什么（Mamba，arXiv:2312.00752）。"
            "固定大小的状态无法精确回忆任意多的内容。",
        ),
    ),
    (
        Both("What is an attention sink?", "什么是注意力汇点？"),
        Both(
            "Softmax must spend a weight of 1 even where nothing matters, and heads learn to spend it on the first token. "
            "Drop it from a sliding cache and generation breaks; keep a few first tokens, or give the softmax a sink of its "
            "own (Xiao 2023, arXiv:2309.17453).",
            "即使没有值得关注的内容，softmax 也必须分配总和为 1 的权重，于是各头学会把它放在第一个词元上。滑动缓存丢掉它，生成就会崩坏；"
            "应保留最初几个词元，或给 softmax 一个专门的汇点（Xiao 2023，arXiv:2309.17453）。",
        ),
    ),
    (
        Both("Does attention explain a prediction?", "注意力能解释预测吗？"),
        Both(
            "Not by itself. Other weights can often give the same prediction (Jain & Wallace 2019, arXiv:1902.10186); but "
            "such weights are not what training finds, and it depends on what is called an explanation (Wiegreffe & Pinter "
            "2019, arXiv:1908.04626). Switch a head off and see what changes.",
            "单凭权重不能。换一组权重往往能得到同样的预测（Jain & Wallace 2019，arXiv:1902.10186）；但训练并不会得到那样的权重，而且要看“解释”"
            "指什么（Wiegreffe & Pinter 2019，arXiv:1908.04626）。关掉一个头，看结果有什么变化。",
        ),
    ),
    (
        Both("Do ALiBi and RoPE extrapolate to longer texts?", "ALiBi 与 RoPE 能外推到更长的文本吗？"),
        Both(
            "ALiBi lowers scores by distance and keeps working beyond the trained length, in part because it looks nearby "
            "(Press 2022, arXiv:2108.12409). RoPE by itself does not: unseen angles appear; its angles are rescaled "
            "instead, with a little further training (Chen 2023, arXiv:2306.15595).",
            "ALiBi 按距离降低分数，超过训练长度仍可用，部分原因是它主要看近处（Press 2022，arXiv:2108.12409）。RoPE 本身不行：会出现没见过的角度；"
            "做法是缩放角度并稍加训练（Chen 2023，arXiv:2306.15595）。",
        ),
    ),
)
