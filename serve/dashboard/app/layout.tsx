import type { Metadata, Viewport } from "next";
import type { ReactNode } from "react";
import "./globals.css";

const bars = "M3 9v6M8 5v14M13 8v8M18 3v18M22 10v4";
const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 25 24" stroke="#0e9fbf" stroke-width="2.6" stroke-linecap="round"><path d="${bars}"/></svg>`;

export const metadata: Metadata = {
  icons: { icon: `data:image/svg+xml,${encodeURIComponent(icon)}` },
  title: "audiocnn: predictions and feature maps",
  description: "Drop a sound, and see layer by layer how the model predicts its class.",
};

export const viewport: Viewport = { width: "device-width", initialScale: 1, colorScheme: "light dark" };

export default function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <body>{children}</body>
    </html>
  );
}
