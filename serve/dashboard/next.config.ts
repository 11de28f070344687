import type { NextConfig } from "next";

// Static files that the endpoint serves itself; the same source gives the same names.
const config: NextConfig = {
  output: "export",
  reactStrictMode: true,
  generateBuildId: () => "audiocnn",
  images: { unoptimized: true },
};

export default config;
