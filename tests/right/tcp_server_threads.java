// Java: a thread for each client, lines in and out.
import java.io.*;
import java.net.*;
import java.nio.charset.StandardCharsets;

class Main {
  public static void main(String[] args) throws IOException {
    ServerSocket listener = new ServerSocket(Integer.parseInt(args[0]));
    System.out.println("Server started: " + listener);
    while (true) {
      Socket conn = listener.accept();
      new Thread(() -> serve(conn)).start();
    }
  }

  static void serve(Socket conn) {
    try (conn) {
      var in = new BufferedReader(new InputStreamReader(conn.getInputStream(), StandardCharsets.UTF_8));
      var out = new PrintWriter(new OutputStreamWriter(conn.getOutputStream(), StandardCharsets.UTF_8), true);
      for (String line; (line = in.readLine()) != null;) {
        System.out.println("Received: " + line);
        out.println(line);
        if (line.equals("stop")) break;
      }
    } catch (IOException error) {
      System.err.println(error);
    }
  }
}
