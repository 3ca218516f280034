// Score one image by a file that `anomscan export OUT.onnx --with-scorer` wrote.
//
//     c++ -std=c++17 -I DIR/include score.cpp -L DIR/lib -lonnxruntime -o score
//     ./score OUT.onnx PIXELS
//
// PIXELS holds the image as the model takes it: H * W * 3 bytes, rows from the top, red, green, blue, squashed
// to H x W as the metadata of the file says. Prints the score and, if the file has it, the p-value. (On Windows
// a session takes the path as wchar_t.)

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

int main(int argc, char** argv) try {
    if (argc != 3) {
        std::fprintf(stderr, "usage: %s OUT.onnx PIXELS\n", argv[0]);
        return 2;
    }
    Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "score");
    Ort::Session session(env, argv[1], Ort::SessionOptions{});
    Ort::AllocatorWithDefaultOptions allocator;

    std::vector<std::int64_t> shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    shape[0] = 1;
    const std::size_t size = static_cast<std::size_t>(shape[1] * shape[2] * shape[3]);
    std::ifstream file(argv[2], std::ios::binary);
    std::vector<std::uint8_t> pixels{std::istreambuf_iterator<char>(file), {}};
    if (pixels.size() != size) {
        std::fprintf(stderr, "%s has %zu bytes, not %zu\n", argv[2], pixels.size(), size);
        return 1;
    }

    const std::string input = session.GetInputNameAllocated(0, allocator).get();
    std::vector<std::string> names;
    for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
        const std::string name = session.GetOutputNameAllocated(i, allocator).get();
        if (name == "score" || name == "p_value") names.push_back(name);
    }
    std::vector<const char*> wanted;
    for (const std::string& name : names) wanted.push_back(name.c_str());

    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const Ort::Value image = Ort::Value::CreateTensor<std::uint8_t>(
        memory, pixels.data(), pixels.size(), shape.data(), shape.size());
    const char* inputs[] = {input.c_str()};
    const std::vector<Ort::Value> found =
        session.Run(Ort::RunOptions{}, inputs, &image, 1, wanted.data(), wanted.size());
    for (std::size_t i = 0; i < found.size(); ++i)
        std::printf("%s %.9g\n", wanted[i], static_cast<double>(*found[i].GetTensorData<float>()));
} catch (const Ort::Exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
